"""What a call of an async program gives in another one."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .errors import TraceError
from .location import located
from .var import NoAttributeError

__all__ = ["Called"]

R_co = TypeVar("R_co", covariant=True)

if TYPE_CHECKING:

    class _Anything(Coroutine[Any, Any, R_co], Any):  # type: ignore[misc]  # mypy forbids the base Any; plain code gets the result itself
        pass
else:
    _Anything = Coroutine


class Called(_Anything[R_co]):
    """A coroutine that says so to whoever takes it for its result.

    A coroutine of Python's own goes into a text as ``<coroutine object …>``, and from there into prompts.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, R_co], owner: str) -> None:
        self._coroutine = coroutine
        self._owner = owner

    def __await__(self) -> Generator[Any, Any, R_co]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As of any coroutine."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """As of any coroutine."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """As of any coroutine."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # what Python looks for
            raise AttributeError(name)
        raise NoAttributeError(self._told)

    def _refuse(self, *others: object) -> NoReturn:
        self._coroutine.close()  # which nobody need be warned of, too
        raise TraceError(self._told)

    @property
    def _told(self) -> str:
        return located(f"the result of {self._owner} is used without an `await`: the program is async")

    __str__ = __format__ = __bool__ = __len__ = __getitem__ = __add__ = __radd__ = _refuse
    __iter__: Any = _refuse  # of any type: see Var
