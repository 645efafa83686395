"""What goes wrong in a command, as one clear line and an exit status.

UsageProblem    the command line names what is not there or cannot be read
"""

from __future__ import annotations

import sysconfig
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text
from typer.core import TyperGroup

from weft.frontend.errors import ProgramError, Rejected, TraceError, Unavailable, WeftError
from weft.graph.errors import GraphError
from weft.runtime.config import ConfigError
from weft.runtime.retrieval.errors import CorpusError, CorruptIndexError, IndexServerError, UnwritableError
from weft.runtime.supervisor import StartupError

from .entry import INTERRUPTED
from .output import ERRORS, only_json, print_json

__all__ = ["FAILED", "USAGE", "CommandGroup", "UsageProblem", "description", "report"]

FAILED: Final = 1
USAGE: Final = 2

_STANDARD: Final = Path(sysconfig.get_path("stdlib"))
_WEFT: Final = Path(__file__).parents[2]
_APPS: Final = _WEFT / "apps"


class UsageProblem(WeftError):
    """The command line names what is not there or cannot be read."""


_SETUP: Final = (
    ConfigError,
    CorpusError,
    CorruptIndexError,
    GraphError,
    IndexServerError,
    StartupError,
    UnwritableError,
)
_USAGE: Final = (UsageProblem, TraceError, Rejected, Unavailable, *_SETUP)
_OURS: Final = (WeftError, *_SETUP)


_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (UsageProblem, "usage"),
    (TraceError, "invalid"),
    (GraphError, "invalid"),
    (ConfigError, "configuration"),
    (CorruptIndexError, "configuration"),
    (IndexServerError, "configuration"),
    (UnwritableError, "configuration"),
    (CorpusError, "documents"),
    (StartupError, "startup"),
    (WeftError, "internal"),
)


class CommandGroup(TyperGroup):
    """Turns the exceptions of commands into one line each; with ``--debug`` they are raised.

    A command that was called with ``--json`` writes the error as JSON to standard output too.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        as_json = "--json" in ctx.args and ctx.parent is None  # once, if groups stand in groups
        try:
            with only_json() if as_json else nullcontext():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as problem:
            if as_json and not _ends_quietly(problem):
                print_json({"error": description(problem)})
            if ctx.params.get("debug") or _is_of_the_parser(problem):
                raise
            raise typer.Exit(report(problem)) from None


def report(problem: Exception) -> int:
    """Write what went wrong to standard error; the exit status for it."""
    ERRORS.print(Text.assemble(("error: ", "bold red"), _message(problem)))
    if isinstance(problem, ProgramError) and problem.__cause__ is not None:
        ERRORS.print(Text(f"cause: {_foreign(problem.__cause__)}"))
    return USAGE if isinstance(problem, _USAGE) else FAILED


def description(problem: Exception) -> dict[str, str]:
    """What went wrong for programs to read: `code`, `message`, and for a run that failed where it did.

    `code` is that of the run's fault; `usage`, `invalid`, `configuration`, `documents` or `startup` if there
    was no run; and `exception` if the user's own code raised.
    """
    if isinstance(problem, ProgramError):
        fields = ("code", "message", "program", "node", "location", "worker")
        found = {field: str(getattr(problem, field)) for field in fields if getattr(problem, field)}
        return found | ({} if problem.__cause__ is None else {"cause": _foreign(problem.__cause__)})
    if _is_of_the_parser(problem):
        parsing: Any = problem  # typer does not export the class
        return {"code": "usage", "message": parsing.format_message()}
    code = next((code for kind, code in _CODES if isinstance(problem, kind)), "exception")
    return {"code": code, "message": _message(problem)}


def _message(problem: Exception) -> str:
    return str(problem) if isinstance(problem, _OURS) else _foreign(problem)


def _foreign(problem: BaseException) -> str:
    """An exception of the user's code: its type, its message, and the line of that code."""
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if _is_users(Path(frame.filename))]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(problem).__name__}: {problem}{where}"


def _is_users(file: Path) -> bool:
    if file.is_relative_to(_APPS):
        return True
    foreign = file.is_relative_to(_WEFT) or file.is_relative_to(_STANDARD) or "site-packages" in file.parts
    return not foreign and not file.name.startswith("<frozen ")


def _ends_quietly(problem: Exception) -> bool:
    return _is_of_the_parser(problem) and not hasattr(problem, "format_message")


def _is_of_the_parser(problem: Exception) -> bool:
    """Whether typer knows what to do with it: wrong options, `Exit`, `Abort`, a closed pipe."""
    return isinstance(problem, typer.Exit | typer.Abort | BrokenPipeError) or hasattr(problem, "exit_code")
