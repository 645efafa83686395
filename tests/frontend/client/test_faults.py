"""What servers refuse, as exceptions."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from weft.frontend.client.faults import error_of_status
from weft.frontend.errors import NotFound, ProgramError, TooLarge, Unavailable


def status(code: StatusCode, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details=details)


@pytest.mark.parametrize(
    "details",
    [
        "SERVER: Received message larger than max (20971520 vs. 16777216)",
        "Received message larger than max (20971520 vs. 16777216)",
    ],
)
def test_a_message_beyond_the_limit_is_told_with_both_sizes_and_the_remedy(details: str) -> None:
    error = error_of_status(status(StatusCode.RESOURCE_EXHAUSTED, details), "here:1", "ask")
    assert isinstance(error, TooLarge)
    assert str(error) == (
        "program 'ask': a message of 20.0 MiB was sent, and the server takes 16 MiB at the most: send less "
        "at a time, or raise max_message_mb in its configuration"
    )


@pytest.mark.parametrize(
    ("code", "details", "kind", "message"),
    [
        (StatusCode.NOT_FOUND, "unknown run 'r'", NotFound, "unknown run 'r'"),
        (StatusCode.UNAVAILABLE, "nobody there", Unavailable, "nobody there (server here:1)"),
        (StatusCode.INTERNAL, "", ProgramError, "INTERNAL"),
        (StatusCode.UNIMPLEMENTED, "no Run", ProgramError, "what answers at here:1 is not a weft server"),
    ],
)
def test_a_status_is_the_exception_of_its_kind(
    code: StatusCode, details: str, kind: type[ProgramError], message: str
) -> None:
    error = error_of_status(status(code, details), "here:1")
    assert type(error) is kind
    assert message in str(error)
