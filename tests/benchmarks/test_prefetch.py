"""`weft bench prefetch` on few agents: what the arms have in common, and what tells them apart."""

from __future__ import annotations

from prefetch import ARMS, Agents, play

AGENTS = Agents((("suite", 1),), 6, 30_000, (6000, 9000), (5, 10), turns=6, each=2, calls_per_s=0.5)


def test_arms_read_the_same_and_wait_for_different_copies() -> None:
    found = {arm: play(AGENTS, arm, 10.0, seed=3) for arm in ARMS}
    assert len({row["computed"] for row in found.values()}) == 1
    assert [arm for arm, row in found.items() if row["ahead"]] == ["next_use"]
    waited = {arm: row["waited for"] for arm, row in found.items()}
    assert waited["next_use"] < waited["order"] < waited["liveness"]
    assert found["next_use"]["turn s"] < found["liveness"]["turn s"]
    assert found["free"]["turn s"] < found["liveness"]["turn s"]


def test_without_a_host_tier_what_has_gone_is_read_again() -> None:
    liveness, order = (play(AGENTS, arm, 0.0, seed=3) for arm in ("liveness", "order"))
    assert order["computed"] < liveness["computed"]
    assert liveness["waited for"] == liveness["ahead"] == 0
