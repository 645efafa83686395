"""`Context`: a conversation with a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NoReturn,
    Self,
    TypeVar,
    Unpack,
    cast,
    get_args,
    overload,
)

from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from weft.graph.ops.user import ScoreMethod
from weft.graph.prompt import Role

from .errors import TraceError
from .generate import TurnOptions, gen, select, text_of
from .location import located
from .messages import Conversation, Turn
from .var import Var

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Context", "Message"]

C = TypeVar("C", bound=str)
T = TypeVar("T")

_Speaker = Literal["system", "user", "assistant"]
_SPEAKERS: Final = get_args(_Speaker)


class Message(TypedDict):
    """A turn of a conversation, as in OpenAI's API."""

    role: _Speaker
    content: str


class Context(Conversation):
    """What has been said to a model and by it; the next `gen` goes on from there.

    Turns are rendered by the model's own chat template. A context that begins with `text` is plain text
    instead, which no template touches. What two contexts share is read by the model once.

    Example::

        chat = Context(system="Be brief.").user(question)
        draft = chat.gen()                    # the assistant's turn
        short = chat.user("Shorter!").gen()   # the model goes on from its own draft
    """

    def __init__(self, system: str | None = None, *, messages: Iterable[Message] = ()) -> None:
        """A conversation that begins with a system message, and has gone on with `messages`.

        Raises TraceError for what is no message.
        """
        self.turns = [] if system is None else [("system", str(system))]
        self.turns += [_turn(message) for message in messages]
        self._begun = False  # the last turn is the assistant's, and not complete

    @property
    def messages(self) -> list[Message]:
        """All turns, for the program to return; texts that are yet to be written are there then.

        Raises TraceError if the conversation is plain text, or the last turn of it is not complete.
        """
        if self._begun or self._last() == "raw":
            what = "a turn that is not complete" if self._begun else "plain text"
            raise TraceError(located(f"{what} is no message; call gen() first, or begin with user()"))
        return [Message(role=cast("_Speaker", role), content=text) for role, text in self.turns]

    def __format__(self, spec: str) -> NoReturn:
        raise TraceError(located("a Context is no text: write context.gen(), or gen(context)"))

    def system(self, text: str) -> Self:
        """Add a system message."""
        return self._say("system", text)

    def user(self, text: str) -> Self:
        """Add a turn of the user."""
        return self._say("user", text)

    def assistant(self, text: str) -> Self:
        """Add a complete turn of the assistant, such as an example."""
        return self._say("assistant", text)

    def text(self, text: str) -> Self:
        """Add plain text; after a turn of the user, begin the assistant's turn with it."""
        last = self._last()
        if last in ("", "raw") or self._begun:
            self._go_on("raw" if last in ("", "raw") else "assistant", text)
        elif last == "user":
            self.turns.append(("assistant", str(text)))
            self._begun = True
        else:
            raise TraceError(
                located(f"text() cannot follow a turn of the {last}; call user() first, or begin with text()")
            )
        return self

    @overload
    def gen(self, **options: Unpack[TurnOptions]) -> Var[str]: ...
    @overload
    def gen(self, *, type: type[T], **options: Unpack[TurnOptions]) -> Var[T]: ...
    @overload
    def gen(self, *, type: TypeForm[T], **options: Unpack[TurnOptions]) -> Var[T]: ...
    @overload
    def gen(self, *, type: Any, **options: Unpack[TurnOptions]) -> Var[Any]: ...

    def gen(self, *, type: Any = str, **options: Unpack[TurnOptions]) -> Var[Any]:
        """Let the model write the assistant's turn, and add it to the conversation as the model wrote it.

        Options as those of `weft.gen`, but for system, raw and n. Raises TraceError.
        """
        self._expect_turn("gen()", options)
        written = gen(self, type=type, **options)
        self._answer(text_of(written))
        return written

    def select(
        self,
        choices: Sequence[C],
        *,
        method: ScoreMethod = "mean",
        model: str = "",
        cache: bool = False,
        name: str = "",
    ) -> Var[C]:
        """Let the assistant say the likeliest of `choices`; see `weft.select`."""
        self._expect_turn("select()", {})
        chosen = select(self, choices, method=method, model=model, cache=cache, name=name)
        self._answer(chosen)
        return chosen

    def fork(self, n: int = 2) -> list[Context]:
        """`n` independent copies that share the past."""
        copies = [Context() for _ in range(n)]
        for copy in copies:
            copy.turns = list(self.turns)
            copy._begun = self._begun
        return copies

    def _last(self) -> str:
        return self.turns[-1][0] if self.turns else ""

    def _say(self, role: Role, text: str) -> Self:
        if self._last() == "raw" or self._begun:
            begun = "plain text" if self._last() == "raw" else "a turn of the assistant that is not complete"
            raise TraceError(
                located(f"{role}() cannot follow {begun}; call gen() first, or use another Context")
            )
        self.turns.append((role, str(text)))
        return self

    def _go_on(self, role: Role, text: str) -> None:
        past = self.turns.pop()[1] if self.turns else ""
        self.turns.append((role, past + str(text)))

    def _answer(self, text: Var[str]) -> None:
        if self._last() == "raw":
            self._go_on("raw", str(text))
        elif self._begun:
            self._go_on("assistant", str(text))
        else:
            self.turns.append(("assistant", str(text)))
        self._begun = False

    def _expect_turn(self, what: str, options: Any) -> None:
        if not self.turns:
            raise TraceError(located(f"{what} has nothing to go on from: the Context is empty"))
        if self._last() == "assistant" and not self._begun:
            raise TraceError(
                located(f"{what} cannot follow a complete turn of the assistant; call user() first")
            )
        for name in ("system", "raw", "n"):
            if name in options:
                raise TraceError(located(f"{what} of a Context takes no {name!r}"))


def _turn(message: object) -> Turn:
    match message:
        case {"role": role, "content": str() | Var() as content} if role in _SPEAKERS:
            return role, str(content)
        case {"role": role} if role not in _SPEAKERS:
            known = ", ".join(map(repr, _SPEAKERS))
            hint = "; write what a tool says as a turn of the user" if role in ("tool", "function") else ""
            raise TraceError(located(f"there is no role {role!r}; known: {known}{hint}"))
        case {"role": _, "content": content}:
            kind = type(content).__name__
            raise TraceError(located(f"the content of a message must be a text, not {kind}"))
        case _:
            raise TraceError(located(f"a message is a dict with 'role' and 'content', not {_shown(message)}"))


def _shown(message: object) -> str:
    return f"one with {', '.join(map(repr, message))}" if isinstance(message, Mapping) else repr(message)
