"""The floor of the benchmark of steps: its messages go out to other processes and come back."""

from __future__ import annotations

import asyncio

from workloads import echo
from workloads.noop import FAN_OUT, Arm


async def _run(arms: dict[str, Arm]) -> dict[str, tuple[str, str]]:
    return {name: (await arm.chain("x7"), await arm.fan_out("x7")) for name, arm in arms.items()}


def test_every_arm_gives_what_the_steps_would() -> None:
    with echo.arms() as arms:
        found = asyncio.run(_run(arms))
    expected = ("x7", str(FAN_OUT))
    assert found == {"grpc alone, once": expected, "grpc alone, each step": expected}
