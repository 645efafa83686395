"""How requests of a run travel, and what waits for its values."""

from __future__ import annotations

from weft.frontend.client.journal import Journal
from weft.frontend.client.session import _messages
from weft.graph.ir import Value
from weft.proto import orchestrator_pb2 as pb


def answer(number: int, size: int) -> pb.RunRequest:
    return pb.RunRequest(tool=pb.ToolAnswer(node=number, json="x" * size))


def test_small_requests_travel_together_and_large_ones_alone_in_order() -> None:
    requests = [
        answer(0, 10),
        answer(1, 10),
        answer(2, 10**6),
        answer(3, 10**6),
        answer(4, 10),
        answer(5, 10),
    ]
    messages = [[request.tool.node for request in message.requests] for message in _messages(requests)]
    assert messages == [[0, 1], [2], [3], [4, 5]]


async def test_values_that_never_came_end_with_the_run() -> None:
    journal = Journal("p")
    waited_for = journal.known(Value(1))
    journal.apply(pb.RunEvent(run="r", finished=pb.RunResult()))
    assert journal.state == "done"
    assert waited_for.cancelled()
