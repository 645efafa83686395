"""weft: an application-orchestration runtime for LLM programs on models that you host.

The names below are loaded when they are first used, so that server processes, which import other members of
this package, never load the language.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.frontend.calling import ToolCall, Turn
    from weft.frontend.client import (
        Client,
        Emitted,
        Event,
        Interrupted,
        NodeChanged,
        Run,
        RunFinished,
        RunStarted,
        TextAdded,
        ToolEnded,
        ToolStarted,
        connect,
    )
    from weft.frontend.context import Context
    from weft.frontend.control import cond, fold, loop, map
    from weft.frontend.emit import emit
    from weft.frontend.errors import ProgramError, TraceError, WeftError
    from weft.frontend.faking import ModelCall, fake_model
    from weft.frontend.generate import gen, select
    from weft.frontend.history import Message
    from weft.frontend.interrupt import interrupt
    from weft.frontend.passages import Document, Passage
    from weft.frontend.policy import RetryPolicy, TimeoutPolicy
    from weft.frontend.program import program
    from weft.frontend.retrieval import embed, ingest, neighbours, rerank, search
    from weft.frontend.signature import Static
    from weft.frontend.tools import server_tool, tool
    from weft.frontend.var import Var
    from weft.frontend.verbs import Program
    from weft.graph.ops.user import Chunking

__all__ = [
    "Chunking",
    "Client",
    "Context",
    "Document",
    "Emitted",
    "Event",
    "Interrupted",
    "Message",
    "ModelCall",
    "NodeChanged",
    "Passage",
    "Program",
    "ProgramError",
    "RetryPolicy",
    "Run",
    "RunFinished",
    "RunStarted",
    "Static",
    "TextAdded",
    "TimeoutPolicy",
    "ToolCall",
    "ToolEnded",
    "ToolStarted",
    "TraceError",
    "Turn",
    "Var",
    "WeftError",
    "cond",
    "connect",
    "embed",
    "emit",
    "fake_model",
    "fold",
    "gen",
    "ingest",
    "interrupt",
    "loop",
    "map",
    "neighbours",
    "program",
    "rerank",
    "search",
    "select",
    "server_tool",
    "tool",
]

_HOMES = {
    "frontend.client": (
        "Client",
        "Emitted",
        "Event",
        "Interrupted",
        "NodeChanged",
        "Run",
        "RunFinished",
        "RunStarted",
        "TextAdded",
        "ToolEnded",
        "ToolStarted",
        "connect",
    ),
    "frontend.calling": ("ToolCall", "Turn"),
    "frontend.context": ("Context",),
    "frontend.control": ("cond", "fold", "loop", "map"),
    "frontend.errors": ("ProgramError", "TraceError", "WeftError"),
    "frontend.emit": ("emit",),
    "frontend.faking": ("ModelCall", "fake_model"),
    "frontend.generate": ("gen", "select"),
    "frontend.history": ("Message",),
    "frontend.interrupt": ("interrupt",),
    "frontend.passages": ("Document", "Passage"),
    "frontend.policy": ("RetryPolicy", "TimeoutPolicy"),
    "frontend.program": ("program",),
    "frontend.retrieval": ("embed", "ingest", "neighbours", "rerank", "search"),
    "frontend.signature": ("Static",),
    "frontend.tools": ("server_tool", "tool"),
    "frontend.var": ("Var",),
    "frontend.verbs": ("Program",),
    "graph.ops.user": ("Chunking",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(f"weft.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
