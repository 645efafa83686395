"""How requests of a run travel, and what waits for its values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from weft.frontend.client.journal import Journal
from weft.frontend.client.session import Submission, WatchSession, _messages
from weft.frontend.errors import ProgramError, Unauthenticated
from weft.graph.ir import Value
from weft.proto import orchestrator_pb2 as pb
from weft.proto.graph_pb2 import Graph
from weft.runtime.outer_run import OUTER, OuterRun


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


def test_what_code_on_a_server_starts_belongs_to_the_run_that_it_works_for() -> None:
    plain = Submission("p", Graph()).request()
    assert (plain.parent, plain.namespace, plain.priority) == ("", "", 0)
    token = OUTER.set(OuterRun("r-1", "tenant", 2))
    try:
        inside = Submission("p", Graph()).request()
        other = Submission("p", Graph(), namespace="mine", priority=1).request()
    finally:
        OUTER.reset(token)
    assert (inside.parent, inside.namespace, inside.priority) == ("r-1", "tenant", 2)
    assert (other.parent, other.namespace, other.priority) == ("r-1", "mine", 1)


async def test_values_that_never_came_end_with_the_run() -> None:
    journal = Journal("p")
    waited_for = journal.known(Value(1))
    journal.apply(pb.RunEvent(run="r", finished=pb.RunResult()))
    assert journal.state == "done"
    assert waited_for.cancelled()


class Refusing:
    """A method, or the reading of a stream, that ends with a status."""

    def __init__(self, code: StatusCode, details: str) -> None:
        self._error = AioRpcError(code, Metadata(), Metadata(), details=details)

    async def read(self) -> Any:
        raise self._error

    async def __call__(self, _: pb.DescribeServerRequest) -> Any:
        raise self._error

    def cancel(self) -> bool:
        return False


async def answering(_: pb.DescribeServerRequest) -> pb.ServerInfo:
    return pb.ServerInfo()


LOST = "Internal error from Core"


@pytest.mark.parametrize(
    ("details", "describe", "kind", "message"),
    [
        (LOST, Refusing(StatusCode.UNAUTHENTICATED, "no key"), Unauthenticated, "'p': no key"),
        (LOST, answering, ProgramError, LOST),
        ("other", Refusing(StatusCode.UNAUTHENTICATED, "no key"), ProgramError, "'p': other"),
    ],
)
async def test_a_reason_that_grpc_has_lost_is_asked_for(
    details: str, describe: Any, kind: type[ProgramError], message: str
) -> None:
    connection: Any = SimpleNamespace(address="here:1", stub=SimpleNamespace(Describe=describe))
    session = WatchSession(connection, Journal("p"))
    with pytest.raises(ProgramError, match=message) as refused:
        await session.listen(Refusing(StatusCode.INTERNAL, details))
    assert type(refused.value) is kind
