"""What is sent shares the ports that it passes, and nothing is lost on the way."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.simulator.clock import Clock
from weft.runtime.simulator.link import Port, Shipment


def test_who_is_alone_has_the_slower_port_for_itself_and_two_share_it() -> None:
    clock, ended = Clock(), dict[str, float]()
    fast, slow, other = Port(100.0), Port(10.0), Port(100.0)

    def send(name: str, source: Port, target: Port, size: float) -> None:
        Shipment(source, target, size, clock, lambda: ended.setdefault(name, clock.now))

    clock.at(0.0, lambda: send("first", fast, slow, 1000.0))
    clock.at(0.050, lambda: send("second", other, slow, 1000.0))
    clock.at(0.050, lambda: send("elsewhere", other, fast, 1000.0))
    clock.run()
    assert ended == pytest.approx({"first": 0.150, "second": 0.200, "elsewhere": 0.070})


def test_what_is_stopped_has_come_in_part_and_leaves_its_share_to_others() -> None:
    clock, ended = Clock(), list[float]()
    a, b = Port(10.0), Port(10.0)
    stopped = Shipment(a, b, 1000.0, clock, lambda: ended.append(-1.0))
    Shipment(a, b, 1000.0, clock, lambda: ended.append(clock.now))
    came: list[float] = []
    clock.at(0.100, lambda: came.append(stopped.stop()))
    clock.run()
    assert came == pytest.approx([500.0])
    assert ended == pytest.approx([0.150])
    assert [*a.sending, *b.receiving] == []


sizes = st.integers(0, 100_000)
shipments = st.tuples(
    st.integers(0, 3), st.integers(0, 3), sizes, st.floats(0, 1), st.floats(0, 3) | st.none()
)


@given(
    st.lists(st.sampled_from((1.0, 10.0, 100.0)), min_size=4, max_size=4), st.lists(shipments, max_size=12)
)
def test_no_port_carries_more_than_it_can_and_all_arrives(
    speeds: list[float], plan: list[tuple[int, int, int, float, float | None]]
) -> None:
    clock, ports = Clock(), [Port(speed) for speed in speeds]
    came: dict[int, float] = {}  # bytes
    took: dict[int, tuple[float, float]] = {}

    def begin(number: int) -> None:
        source, target, size, _, patience = plan[number]

        def over(come: float) -> None:
            came[number] = come
            took[number] = began, clock.now

        began = clock.now
        shipment = Shipment(ports[source], ports[target], size, clock, lambda: over(size))
        if patience is not None:
            clock.after(patience, lambda: over(shipment.stop()) if number not in came else None)

    for number, (_, _, _, start, _) in enumerate(plan):
        clock.at(start, partial(begin, number))
    assert clock.run()
    assert came.keys() == set(range(len(plan)))
    assert [each for port in ports for each in (*port.sending, *port.receiving)] == []
    for number, (source, target, size, _, patience) in enumerate(plan):
        began, ended = took[number]
        assert came[number] <= size
        assert patience is not None or came[number] == size
        assert came[number] <= min(speeds[source], speeds[target]) * (ended - began) * 1e3 + 1e-3
    for index, speed in enumerate(speeds):
        for end in (0, 1):
            mine = [number for number, each in enumerate(plan) if each[end] == index]
            if mine:
                first, last = min(took[n][0] for n in mine), max(took[n][1] for n in mine)
                assert sum(came[n] for n in mine) <= speed * (last - first) * 1e3 + 1e-3
