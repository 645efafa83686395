"""`Context`: a conversation with a model."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar, Unpack, overload

from weft.graph.ops.user import ScoreMethod
from weft.graph.prompt import Role
from weft.graph.types import TEXT

from .calling import AnyTool, ToolCall, Toolset, Turn
from .constraint import Wanted
from .dynamic import LiveTrace
from .errors import TraceError
from .generate import CallOptions, TurnOptions, gen, select, text_of
from .history import Message, entry_of, message_of
from .location import located
from .messages import Conversation, Entry
from .pytypes import py_type
from .trace import current
from .var import Var

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Context"]

C = TypeVar("C", bound=str)
T = TypeVar("T")

_TURN: Final = 1024  # tokens, for a call that is cut off is none


class Context(Conversation):
    """What has been said to a model and by it; the next `gen` goes on from there.

    Turns are rendered by the model's own chat template. A context that begins with `text` is plain text
    instead, which no template touches. What two contexts share is read by the model once.

    Example::

        chat = Context(system="Be brief.").user(question)
        draft = chat.gen()                    # the assistant's turn
        short = chat.user("Shorter!").gen()   # the model goes on from its own draft
    """

    def __init__(
        self,
        system: str | None = None,
        *,
        messages: Iterable[Message] = (),
        tools: Iterable[AnyTool] = (),
    ) -> None:
        """A conversation that begins with a system message, and has gone on with `messages`.

        `tools` are what the model may call, see `turn`. Raises TraceError for what is no message and no tool.
        """
        self.turns = [] if system is None else [Entry("system", str(system))]
        self.turns += [entry_of(message) for message in messages]
        self._toolset = Toolset(tools)
        self.tools = (Entry("tools", self._toolset.text),) if self._toolset else ()
        self._begun = False  # the last turn is the assistant's, and not complete

    @property
    def messages(self) -> list[Message]:
        """All turns, for the program to return; texts that are yet to be written are there then.

        Raises TraceError if the conversation is plain text, or the last turn of it is not complete.
        """
        if self._begun or self._last() == "raw":
            what = "a turn that is not complete" if self._begun else "plain text"
            raise TraceError(located(f"{what} is no message; call gen() first, or begin with user()"))
        return [message_of(entry) for entry in self.turns]

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
        elif last in ("user", "tool"):
            self._expect_answered("text()")
            self.turns.append(Entry("assistant", str(text)))
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

    def turn(
        self, *, tool_choice: str | AnyTool = "auto", **options: Unpack[CallOptions]
    ) -> Coroutine[Any, Any, Turn]:
        """In an async program, let the model write the assistant's turn: text, calls of tools, or both.

        A call that names no tool, or whose arguments do not fit, has a `problem`; what has not the form of a
        call is text. `tool_choice`: "auto" leaves it to the model; "required" holds it to one call of a tool,
        the tool itself or its name to a call of that one, with arguments that fit; "none" to text. Other
        options as those of `weft.gen`, but for `max_tokens`, which is 1024 unless given. A turn whose wait is
        cancelled is no part of the conversation.

        Example::

            chat = Context(tools=[look_up]).user(question)
            while (turn := await chat.turn()).calls:
                chat.run(turn.calls)
            return turn.text

        Raises TraceError.
        """
        if not isinstance(current("turn()"), LiveTrace):
            raise TraceError(
                located(
                    "turn() needs an async program, since what the model calls decides what comes next: make "
                    "it an `async def`, outside of map, cond, loop and fold, or write gen()"
                )
            )
        for name in ("type", "regex", "choices", "system", "raw", "n"):
            if name in options:
                raise TraceError(located(f"turn() takes no {name!r}: the model writes text and calls"))
        return self._turn(tool_choice, options)

    def run(self, calls: Iterable[ToolCall]) -> Self:
        """Carry out calls, side by side, and add what the tools give.

        The model is told of calls that cannot be carried out. Raises TraceError for calls of specifications.
        """
        for call in calls:
            self.tool(call, f"error: {call.problem}" if call.problem else self._toolset.run(call))
        return self

    def tool(self, call: ToolCall, result: object) -> Self:
        """Add what a tool gives to a call: a `Var`, a text, or JSON data. Raises TraceError."""
        waiting = self._unanswered()
        if call.id not in waiting:
            known = ", ".join(waiting) or "none"
            raise TraceError(
                located(f"no call {call.id!r} of {call.name!r} waits for a result; those that do: {known}")
            )
        if not isinstance(result, (str, Var)):
            trace = current("tool()")
            result = trace.var(trace.lift(result))
        self.turns.append(Entry("tool", str(result), call=call.id))
        return self

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
            copy._toolset, copy.tools = self._toolset, self.tools
            copy._begun = self._begun
        return copies

    async def _turn(self, choice: str | AnyTool, options: CallOptions) -> Turn:
        self._expect_turn("turn()", options)
        if self._begun or self._last() == "raw":
            raise TraceError(located("turn() cannot go on from what text() has begun; write gen()"))
        prompt, forced = self, choice not in ("auto", "none")
        want = Wanted(TEXT, py_type(str), self._toolset.forced(choice) if forced else None)
        if forced:
            (prompt,) = self.fork(1)
            prompt.turns.append(Entry("call", ""))
        options.setdefault("max_tokens", _TURN)
        written = gen(prompt, type=want, **options)
        mark = str(written)
        entry = Entry("call", "", written=mark) if forced else Entry("assistant", mark)
        self.turns.append(entry)
        try:
            text: str = await written
        except BaseException:  # cancelled, for one
            self.turns.remove(entry)
            raise
        turn = self._toolset.read(text, self._calls()) if choice != "none" and self.tools else Turn(text, [])
        if turn.calls:
            entry.text, entry.written = turn.text, mark
            entry.calls = tuple(call.message for call in turn.calls)
        else:
            entry.role, entry.text, entry.written = "assistant", mark, ""
        return turn

    def _calls(self) -> dict[str, str]:
        """The names of the tools of all calls so far, by the ids of the calls."""
        return {call.id: call.name for entry in self.turns for call in entry.calls}

    def _unanswered(self) -> dict[str, str]:
        """The same of those that have no result yet."""
        answered = {entry.call for entry in self.turns}
        return {id: name for id, name in self._calls().items() if id not in answered}

    def _expect_answered(self, what: str) -> None:
        waiting = ", ".join(sorted(set(self._unanswered().values())))
        if waiting:
            raise TraceError(
                located(
                    f"{what} cannot follow calls without results, of {waiting}; call run(turn.calls) first, "
                    "or tool(call, result) for each"
                )
            )

    def _last(self) -> str:
        return self.turns[-1].role if self.turns else ""

    def _say(self, role: Role, text: str) -> Self:
        if self._last() == "raw" or self._begun:
            begun = "plain text" if self._last() == "raw" else "a turn of the assistant that is not complete"
            raise TraceError(
                located(f"{role}() cannot follow {begun}; call gen() first, or use another Context")
            )
        self._expect_answered(f"{role}()")
        self.turns.append(Entry(role, str(text)))
        return self

    def _go_on(self, role: Role, text: str) -> None:
        past = self.turns.pop().text if self.turns else ""
        self.turns.append(Entry(role, past + str(text)))

    def _answer(self, text: Var[str]) -> None:
        if self._last() == "raw":
            self._go_on("raw", str(text))
        elif self._begun:
            self._go_on("assistant", str(text))
        else:
            self.turns.append(Entry("assistant", str(text)))
        self._begun = False

    def _expect_turn(self, what: str, options: Any) -> None:
        if not self.turns:
            raise TraceError(located(f"{what} has nothing to go on from: the Context is empty"))
        self._expect_answered(what)
        if self._last() in ("assistant", "call") and not self._begun:
            raise TraceError(
                located(f"{what} cannot follow a complete turn of the assistant; call user() first")
            )
        for name in ("system", "raw", "n"):
            if name in options:
                raise TraceError(located(f"{what} of a Context takes no {name!r}"))
