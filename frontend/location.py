"""Which line of the user's code made something."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

__all__ = ["function_location", "located", "raised_at", "user_location"]

_COMMAND: Final = "weft.frontend.cli."
_LIBRARIES: Final = sys.stdlib_module_names | {"pydantic"}


def user_location() -> str:
    """`file.py:14`: the innermost frame outside weft and Python's library (bundled apps count as user code).

    Paths below the working directory are relative to it, those of installed packages to where these lie.
    Empty if there is no such frame, as when weft's own command is what called.
    """
    frame: FrameType | None = sys._getframe(1)
    caller = ""
    while frame is not None and _is_passed(module := _module_of(frame)):
        caller, frame = module, frame.f_back
    if frame is None or caller.startswith(_COMMAND):
        return ""
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def function_location(fn: Callable[..., object]) -> str:
    """`file.py:12`: where a function begins."""
    code = getattr(fn, "__code__", None)  # methods have one, too
    return f"{_short(code.co_filename)}:{code.co_firstlineno}" if code else ""


def raised_at(error: BaseException) -> str:
    """`file.py:14`: the innermost line of an error's traceback outside weft, pydantic and the library."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not _is_passed(_module_of(frame)):
            where = f"{_short(frame.f_code.co_filename)}:{line}"
    return where


def located(message: str) -> str:
    """The message, led by the user's line."""
    where = user_location()
    return f"{where}: {message}" if where else message


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_own(module: str) -> bool:
    return module.startswith("weft.") and not module.startswith("weft.apps.")


def _is_passed(module: str) -> bool:
    return _is_own(module) or module.partition(".")[0] in _LIBRARIES


def _short(path: str) -> str:
    _, installed, inside = path.rpartition(f"site-packages{os.sep}")
    if installed:
        return inside
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith(os.pardir) else relative
