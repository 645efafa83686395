"""The client of a weft server: one connection, runs over it, and tools that run in this process."""

from weft.runtime.environment import importing_grpc

with importing_grpc():
    from .client import Client, connect, default_client, use
    from .events import (
        Emitted,
        Event,
        Interrupted,
        NodeChanged,
        RunFinished,
        RunStarted,
        RunState,
        TextAdded,
        ToolEnded,
        ToolStarted,
        ValueKnown,
    )
    from .run import Run

__all__ = [
    "Client",
    "Emitted",
    "Event",
    "Interrupted",
    "NodeChanged",
    "Run",
    "RunFinished",
    "RunStarted",
    "RunState",
    "TextAdded",
    "ToolEnded",
    "ToolStarted",
    "ValueKnown",
    "connect",
    "default_client",
    "use",
]
