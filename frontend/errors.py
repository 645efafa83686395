"""What a program's author and its callers can be told.

WeftError
├── TraceError (TypeError)       a program is written or called in a way that cannot work
│   └── ArgumentError            the arguments of a call do not fit the program
└── ProgramError                 a run failed; says program, node, source line and cause
    ├── Rejected                 the server refuses the graph or its inputs
    ├── NotFound                 a run, an index or a model that the server does not have
    ├── ToolError                a tool raised
    ├── RunTimeout (TimeoutError)
    ├── RunCancelled
    ├── TooLarge                 a prompt, a message or a graph exceeds a limit
    ├── WorkerLost
    ├── Unauthenticated          the server wants a key that was not sent
    └── Unavailable              no server answers, or none that has what the graph needs and can keep the run
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "NotFound",
    "ProgramError",
    "Rejected",
    "RunCancelled",
    "RunTimeout",
    "TooLarge",
    "ToolError",
    "TraceError",
    "Unauthenticated",
    "Unavailable",
    "WeftError",
    "WorkerLost",
]


class WeftError(Exception):
    """Whatever weft raises."""


class TraceError(WeftError, TypeError):
    """A program is written or called in a way that cannot work; the message names line and remedy."""


class ArgumentError(TraceError):
    """The arguments of a call are not those of the program, or not of their types."""


class ProgramError(WeftError):
    """A run failed."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "internal",
        program: str = "",
        node: str = "",
        location: str = "",
        worker: str = "",
    ) -> None:
        self.message = message
        self.code = code
        self.program = program
        self.node = node
        self.location = location
        self.worker = worker
        super().__init__(self._describe())

    def _describe(self) -> str:
        """`program 'answer', %3 decode 'draft' (app.py:14), worker 'w1': message`, as far as known."""
        node = " ".join(part for part in (self.node, self.location and f"({self.location})") if part)
        parts = [
            f"program {self.program!r}" if self.program else "",
            node,
            f"worker {self.worker!r}" if self.worker else "",
        ]
        where = ", ".join(part for part in parts if part)
        return f"{where}: {self.message}" if where else self.message


class Rejected(ProgramError):
    """The server refuses the graph or its inputs."""


class NotFound(ProgramError):
    """The server does not have what was asked for by name."""


class ToolError(ProgramError):
    """A tool raised; if it ran in this process, its exception is the `__cause__`."""


class RunTimeout(ProgramError, TimeoutError):
    """A node or the whole run took longer than it was allowed to."""


class RunCancelled(ProgramError):
    """The run was cancelled."""


class TooLarge(ProgramError):
    """A prompt exceeds the model's context, or a message the server's limit."""


class WorkerLost(ProgramError):
    """A worker died, and what it was doing could not be done elsewhere."""


class Unauthenticated(ProgramError):
    """The server wants a key, and was sent none or another."""


class Unavailable(ProgramError):
    """No server answers, or it has no worker for what the graph needs, or its journal takes no writes."""
