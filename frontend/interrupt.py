"""`interrupt`: a run that asks a person, and goes on when it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from weft.graph.ops.common import Interrupt
from weft.graph.types import TEXT, Data

from .errors import TraceError
from .lifting import lifted
from .location import located
from .policy import Timeout, node_policy
from .pytypes import py_type
from .trace import current
from .var import Var

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["interrupt"]

_TEXT_SCHEMA: Final = '{"type":"string"}'

T = TypeVar("T")


@overload
def interrupt(value: Any, *, name: str = "", timeout: Timeout = None) -> Var[str]: ...
@overload
def interrupt(value: Any, *, type: type[T], name: str = "", timeout: Timeout = None) -> Var[T]: ...
@overload
def interrupt(value: Any, *, type: TypeForm[T], name: str = "", timeout: Timeout = None) -> Var[T]: ...
@overload
def interrupt(value: Any, *, type: Any, name: str = "", timeout: Timeout = None) -> Var[Any]: ...


def interrupt(value: Any, *, type: Any = str, name: str = "", timeout: Timeout = None) -> Var[Any]:
    """Show `value` to a person; the answer, of type `type`, once it is given.

    Whoever follows the run answers by `Run.resume`, anybody by ``weft runs resume RUN --value …``. What does
    not need the answer goes on meanwhile; the rest waits and takes nothing of any worker. A detached run
    waits without its client, and over restarts of the server. `timeout` limits the wait. Raises TraceError.
    """
    trace = current("interrupt()")
    answer = py_type(type)
    try:
        schema, policy = answer.schema("validation"), node_policy(timeout, None)
    except (TypeError, ValueError) as problem:
        raise TraceError(located(f"interrupt(): {problem}")) from None
    kind = TEXT if schema == _TEXT_SCHEMA else Data(schema)  # a Literal keeps its choices
    shown = lifted(value, trace).value(trace)
    return trace.var(trace.add(Interrupt(kind), {"value": shown}, name=name, policy=policy), answer)
