"""What authors and callers can do wrong, and what they are told."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import weft
from weft import (
    Chunking,
    Context,
    Document,
    RetryPolicy,
    Static,
    TimeoutPolicy,
    ToolCall,
    TraceError,
    Var,
    program,
    tool,
)
from weft.frontend.errors import ProgramError
from weft.frontend.markers import mark

untyped: Any = weft  # type checkers refuse most of what follows, as they should
gen, select, search, rerank, embed, ingest = (
    untyped.gen,
    untyped.select,
    untyped.search,
    untyped.rerank,
    untyped.embed,
    untyped.ingest,
)
untyped_program: Callable[[Callable[..., Any]], Any] = untyped.program
untyped_tool: Callable[[Callable[..., Any]], Any] = untyped.tool
cond, fold, loop, map = untyped.cond, untyped.fold, untyped.loop, untyped.map
neighbours, server_tool = untyped.neighbours, untyped.server_tool


class Step(BaseModel):
    tool: str
    input: str


@untyped_program
def ask(text: str, count: int = 1, size: Static[int] = 1) -> Any:
    return gen(f"{text} {count}")


@untyped_program
async def wait_for(text: str) -> Any:
    return gen(text)


async def awaits(value: Any) -> Any:
    return await value


@untyped_tool
def add(a: int, b: int = 0) -> int:
    return a + b


def traced(use: Callable[[Any, Any], Any]) -> None:
    """Trace a program that does something with a text and a list."""

    @program
    def user(text: str, words: list[str]) -> Any:
        return use(text, words)

    user.graph()


HERE = r"tests/frontend/test_misuse\.py:\d+\)?: "
REMEDY = "await it in an async program, use cond/loop/map, or annotate the parameter Static"


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda x, xs: 1 if x else 2, "condition"),
        (lambda x, xs: not x, "condition"),
        (lambda x, xs: len(xs), r"len\(\)"),
        (lambda x, xs: list(xs), "iterating"),
        (lambda x, xs: [*xs], "iterating"),
        (lambda x, xs: "a" in xs, "`in`"),
        (lambda x, xs: int(x), r"int\(\)"),
        (lambda x, xs: float(x), r"float\(\)"),
        (lambda x, xs: range(x), "index or a count"),
        (lambda x, xs: [1, 2][x], "index or a count"),
        (lambda x, xs: x == "a", "comparing"),
        (lambda x, xs: x != "a", "comparing"),
        (lambda x, xs: x < "a", "comparing"),
        (lambda x, xs: x * 2, "computing"),
        (lambda x, xs: 2 - x, "computing"),
        (lambda x, xs: -x, "computing"),
        (lambda x, xs: xs + "a", "computing"),
        (lambda x, xs: f"{x:>10}", "format '>10'"),
        (lambda x, xs: xs[1:2], "taking item slice"),
        (lambda x, xs: x[0], "taking a character"),
    ],
)
def test_what_needs_the_value(use: Callable[[Any, Any], Any], what: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{what}.*only the run will know.*{REMEDY}"):
        traced(use)


@pytest.mark.parametrize("use", [lambda x, xs: x < "a", lambda x, xs: xs + 1, lambda x, xs: int(x)])
def test_a_tool_may_compute(use: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TraceError, match=f"only the run will know; let a tool do that, or {REMEDY}"):
        traced(use)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x, xs: gen(f"{x!r}"), r"write \{x\}, not \{x!r\}"),
        (lambda x, xs: gen(f"a {[x]}"), r"write \{x\}, not \{x!r\}"),
        (lambda x, xs: gen(f"a {x}"[:-4]), "damaged by slicing"),
        (lambda x, xs: gen(f"a {x}".upper()), "damaged by slicing"),
        (lambda x, xs: gen(mark("w0", 0)), "value of another trace"),
        (lambda x, xs: gen("\U0010f6f0w0:0\U0010f6f1"), "damaged by slicing"),
        (lambda x, xs: "".join(xs), "iterating over it needs"),
        (lambda x, xs: random.choice(xs), r"len\(\) needs"),  # the line is not that of Python's library
        (lambda x, xs: {"a": 1}[x], "looking it up needs <%0 text.*; await it"),
        (lambda x, xs: gen([{"role": "user", "content": x}]), r"not a list; write .* Context\(messages=…\)"),
        (lambda x, xs: gen(x, type={"type": "object"}), "write a JSON Schema as Annotated.*WithJsonSchema"),
        (lambda x, xs: untyped.interrupt(x, type={"type": "a"}), "no JSON Schema: Unknown schema type"),
        (lambda x, xs: asyncio.run(awaits(x)), "only an async program can await a value; make it"),
        (lambda x, xs: map(awaits, xs), "cannot be async"),
        (lambda x, xs: map(lambda y: awaits(y), xs), "a coroutine cannot go into a graph: write `await`"),
        (lambda x, xs: x + 1, "a Var and a int cannot be added"),
        (lambda x, xs: setattr(x, "name", 1), "cannot set 'name'.*immutable"),
        (lambda x, xs: gen("", raw=True), "the prompt is empty"),
        (lambda x, xs: gen(3), "a prompt must be a string, a Var or a Context, not a int"),
        (lambda x, xs: gen(x, raw=True, system="a"), "raw text has no system message"),
        (lambda x, xs: gen(Context().user(x), system="a"), "a Context says them itself"),
        (lambda x, xs: gen(x, regex="a", choices=["a"]), "regex or choices, not both"),
        (lambda x, xs: gen(x, type=int, regex="a"), "regex with type=str only"),
        (lambda x, xs: gen(x, type=int, choices=["a"]), "choices with type=str only"),
        (lambda x, xs: gen(x, regex="("), r"regex '\(' is not a regular expression"),
        (lambda x, xs: gen(x, choices=[]), "choices must not be empty"),
        (lambda x, xs: gen(x, choices="ab"), "choices must be a list of strings"),
        (lambda x, xs: gen(x, choices=[x]), "choices must be a list of strings"),
        (lambda x, xs: select(x, ["a", "a"]), "choices must differ"),
        (lambda x, xs: select(x, ["a", ""]), "a choice must not be empty"),
        (lambda x, xs: select(x, ["a"], method="best"), "unknown method 'best'.*'mean'"),
        (lambda x, xs: gen(x, type=Callable[[], int]), "cannot make a .*Callable"),
        (lambda x, xs: gen(x, max_tokens="9"), r"max_tokens of gen\(\) must be a whole number, not '9'"),
        (lambda x, xs: gen(x, max_tokens=1.5), r"max_tokens of gen\(\) must be a whole number, not 1\.5"),
        (
            lambda x, xs: gen(x, max_tokens=x),
            r"max_tokens of gen\(\) must .* known now; annotate .* Static\[",
        ),
        (lambda x, xs: gen(x, temperature="hot"), r"temperature of gen\(\) must be a number, not 'hot'"),
        (lambda x, xs: gen(x, top_p=True), r"top_p of gen\(\) must be a number, not True"),
        (lambda x, xs: gen(x, seed="a"), r"seed of gen\(\) must be a whole number, not 'a'"),
        (lambda x, xs: gen(x, n="2"), r"n of gen\(\) must be a whole number, not '2'"),
        (lambda x, xs: gen(x, stop=3), r"stop of gen\(\) must be a text or a list of texts, not 3"),
        (lambda x, xs: gen(x, stop=["a", 3]), r"stop of gen\(\) must be a text or a list of texts"),
        (lambda x, xs: gen(x, regex=3), "regex must be a text, not 3"),
        (lambda x, xs: gen(x, name=3), "the name of an operation must be a text, not 3"),
        (
            lambda x, xs: gen(x, timeout="5"),
            "timeout must be a number of seconds or a TimeoutPolicy",
        ),
        (lambda x, xs: gen(x, retry=3), "retry must be a RetryPolicy, not 3"),
        (lambda x, xs: server_tool("find")(x), r"by name: write find\(name=value\)"),
        (lambda x, xs: gen(x, max_tokens=0), "max_tokens must be at least 1"),
        (lambda x, xs: gen(x, temperature=-1), "temperature must lie between"),
        (lambda x, xs: gen(x, top_p=0), "top_p must lie in"),
        (lambda x, xs: gen(x, stop=""), "stop must not hold an empty string"),
        (lambda x, xs: gen(x, ignore_eos=True, type=int), "ignore_eos goes with plain text"),
        (lambda x, xs: gen(x, ignore_eos=True, regex="a+"), "ignore_eos goes with plain text"),
        (lambda x, xs: gen(x, n=0), "n must be at least 1"),
        (lambda x, xs: gen(x, cache=True, temperature=0.5), "only greedy texts can be cached"),
        (lambda x, xs: gen(x, seed=-1), r"seed must lie in \[0, 2\*\*63\)"),
        (lambda x, xs: gen(x, timeout=0), "a timeout must be positive"),
        (lambda x, xs: gen(embed(x)), "no textual form"),
        (lambda x, xs: search(x, "q"), r"index of search\(\) must be a constant name, .*Static\[str\]"),
        (lambda x, xs: xs.append(x), f"no field 'append'; to work on it, let a tool do that, or {REMEDY}"),
        (lambda x, xs: gen(f"{Context().user(x)}"), r"a Context is no text: write context\.gen\(\)"),
        (lambda x, xs: search("a", "q", k=0), "k of search.*positive whole number, not 0"),
        (lambda x, xs: search("a", "q", mode="best"), "unknown mode 'best'.*'hybrid'"),
        (lambda x, xs: search("a", "q", where="hr"), "where of search.*dict of metadata fields, not 'hr'"),
        (lambda x, xs: search("a", "q", where={"a": {"b": x}}), r"where\['a'\] of search.*must be a text"),
        (lambda x, xs: rerank("q", xs, k=True), "k of rerank.*positive whole number, not True"),
        (lambda x, xs: ingest("", xs), "the index of ingest"),
        (lambda x, xs: ingest("a", "text"), r"a list of documents; write \[document\]"),
        (lambda x, xs: ingest("a", Document("d", x)), "a list of documents"),
        (lambda x, xs: ingest("a", [{"text": "b"}]), "a document lacks 'id'"),
        (lambda x, xs: map(lambda d: ingest("a", [d]), xs), "cannot stand in the body of map"),
        (lambda x, xs: map(gen, x), r"map\(\) needs a list, not text"),
        (lambda x, xs: map("a", xs), r"map\(\) needs a function, not a str"),
        (lambda x, xs: map(wait_for._fn, xs), "cannot be async"),
        (lambda x, xs: map(wait_for, xs), "is async and cannot be called while"),
        (
            lambda x, xs: map(lambda: 1, xs),
            r"map\(\) calls its function as f\(item\), and <lambda>\(\) does not",
        ),
        (lambda x, xs: map(lambda a, b: a, xs), r"<lambda>\(a, b\) does not .*'b'; write lambda item: …"),
        (lambda x, xs: fold(lambda s: s, xs, ""), r"fold\(\) calls its function as f\(state, item\)"),
        (lambda x, xs: loop(lambda: x, x), r"loop\(\) calls its function as f\(state\)"),
        (lambda x, xs: loop(gen, x, until=lambda: True), r"loop\(\) calls its function as f\(state\)"),
        (lambda x, xs: cond(x.equals("a"), gen, "b"), r"cond\(\) calls its .* as f\(\), .*; write lambda: …"),
        (lambda x, xs: loop(gen, x, until=3), r"loop\(\) needs a function, not a int"),
        (lambda x, xs: cond(x, "a", "b"), r"pred must be true or false, not text; compare with x\.equals"),
        (lambda x, xs: cond(1, "a", "b"), "pred must be true or false, not int"),
        (lambda x, xs: loop(gen, x, limit=0), r"limit of loop\(\) must be a positive whole number"),
        (lambda x, xs: loop(gen, x, until=lambda s: s), "until of loop.*true or false, not text"),
        (lambda x, xs: loop(lambda s: gen(s[0]), (x, x)), "a state of the same structure"),
        (lambda x, xs: loop(lambda s: {"a": x}, {"a": x, "b": x}), "a state of the same structure"),
        (lambda x, xs: loop(lambda s: [*s, x], ["a"]), "iterating over it needs"),  # of a list that grows
        (lambda x, xs: loop(lambda s: None, x), r"of loop\(\) gives no next state: is a `return` missing"),
        (lambda x, xs: fold(lambda s, y: None, xs, x), r"of fold\(\) gives no next state"),
        (lambda x, xs: fold(lambda s, y: gen(s[0]), xs, (x, x)), r"fold\(\) must give a state of the same"),
        (lambda x, xs: fold(lambda s, y: s, x, ""), r"fold\(\) needs a list, not text"),
        (lambda x, xs: fold(None, xs, ""), r"fold\(\) needs a function, not a NoneType"),
        (lambda x, xs: neighbours("a", xs, preceding=-1), "preceding of neighbours.*from 0, not -1"),
        (lambda x, xs: untyped.interrupt(x, timeout=-1), r"interrupt\(\): a timeout must be positive"),
        (lambda x, xs: untyped.interrupt(x, type=object()), r"interrupt\(\): "),
        (lambda x, xs: neighbours(x, xs), r"the index of neighbours\(\) must be a constant name"),
        (lambda x, xs: {1: x}, "keys of an object must be strings, not 1"),
        (lambda x, xs: object(), "a value of type 'object' cannot go into a graph"),
        (lambda x, xs: float("nan"), "no NaN"),
        (lambda x, xs: add(), "tool 'add': missing a required argument: 'a'; it takes a, b"),
        (lambda x, xs: add("many"), "tool 'add': argument 'a' must be int: input should be a valid integer"),
        (lambda x, xs: ask(text=x, size=x), "the static argument 'size' must be known"),
        (lambda x, xs: ask("a", words=x), "unexpected keyword argument 'words'; it takes text, count, size"),
        (lambda x, xs: wait_for(x), "is async and cannot be called while a def program"),
    ],
)
def test_misuse(use: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{message}"):
        traced(use)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda c: c.gen(), "nothing to go on from"),
        (lambda c: c.user("a").assistant("b").gen(), "complete turn of the assistant; call user"),
        (lambda c: c.user("a").assistant("b").select(["a", "b"]), "complete turn of the assistant"),
        (lambda c: c.user("a").assistant("b").text("c"), "cannot follow a turn of the assistant"),
        (lambda c: c.system("a").text("c"), "cannot follow a turn of the system"),
        (lambda c: c.text("a").user("b"), r"user\(\) cannot follow plain text"),
        (lambda c: c.user("a").text("b").user("c"), "turn of the assistant that is not complete"),
        (lambda c: c.user("a").gen(n=2), "takes no 'n'"),
        (lambda c: c.user("a").gen(raw=True), "takes no 'raw'"),
        (lambda c: c.text("a").messages, "plain text is no message; call"),
        (lambda c: c.user("a").text("b").messages, "a turn that is not complete is no message; call"),
        (lambda c: c.user("a").turn(), r"turn\(\) needs an async program, .*: make it an `async def`"),
        (lambda c: c.user("a").tool(ToolCall("f", {}, "c1"), "x"), "no call 'c1' of 'f' waits .*: none"),
    ],
)
def test_misuse_of_contexts(use: Callable[[Context], Any], message: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{message}"):
        traced(lambda x, xs: use(Context()))


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "tool", "content": "x"}, "a message of a tool has 'tool_call_id', the id of a call"),
        ({"role": "tool", "content": 1, "tool_call_id": "c"}, "must be a text, not int"),
        ({"role": "me", "content": "x"}, "no role 'me'; known: 'system', 'user', 'assistant', 'tool'$"),
        ({"role": "assistant", "content": "x", "tool_calls": [1]}, 'a call is {"id": .* not 1'),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[]"}}],
            },
            "with the JSON text of an object as its arguments",
        ),
        ({"role": "assistant", "content": None}, "content of a message must be a text, not NoneType"),
        ({"role": "user"}, "a dict with 'role' and 'content', not one with 'role'"),
        ("hello", "a dict with 'role' and 'content', not 'hello'"),
    ],
)
def test_what_is_no_message(message: Any, problem: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{problem}"):
        traced(lambda x, xs: Context(messages=[message]))


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([len], "a tool must be a function with @tool, a server_tool, or a specification"),
        ([{"title": "f"}], "a tool must be a function with @tool"),
        ([{"name": "f", "parameters": {"type": 3}}], "the parameters of tool 'f' are no JSON Schema"),
        ([{"name": "f", "parameters": []}], "the parameters of tool 'f' are no JSON Schema"),
        ([add, {"name": "add"}], "two tools are called 'add'"),
        ([server_tool("f")], r"what 'f' takes: write server_tool\('f', description=…, parameters=…\)"),
    ],
)
def test_what_is_no_tool_for_a_model(tools: Any, problem: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{problem}"):
        traced(lambda x, xs: Context(tools=tools))


@pytest.mark.parametrize(
    "use",
    [
        lambda: gen("a"),
        lambda: select("a", ["b"]),
        lambda: search("a", "b"),
        lambda: rerank("a", []),
        lambda: embed("a"),
        lambda: ingest("a", []),
        lambda: map(gen, []),
        lambda: cond(True, "a", "b"),
        lambda: loop(gen, "a"),
        lambda: Context().user("a").gen(),
        lambda: Context().user("a").turn(),
    ],
)
def test_operations_stand_in_programs(use: Callable[[], Any]) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*outside of a program; .*@program"):
        use()


@pytest.mark.parametrize(
    "run",
    [
        lambda part, x: part.invoke("a"),
        lambda part, x: list(part.stream("a")),
        lambda part, x: list(part.events("a")),
        lambda part, x: part.batch([("a",)]),
        lambda part, x: part.submit("a"),
        lambda part, x: part.using(timeout=1).invoke(x),
        lambda part, x: map(lambda word: part.invoke("a"), [x]),
    ],
)
def test_a_run_while_a_program_is_traced(run: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TraceError, match=rf"{HERE}.*'ask' would run while .* is traced.*: ask\(…\)"):
        traced(lambda x, xs: run(ask, x))


def test_tools_of_the_server_stand_in_programs() -> None:
    with pytest.raises(TraceError, match="can be called in programs only"):
        server_tool("lines")(a=1)


def test_unknown_fields_are_named() -> None:
    @program
    def user(step: Step) -> Any:
        value: Any = step
        return value.inputs

    with pytest.raises(AttributeError, match=f"{HERE}.*no field 'inputs'; known fields: 'tool', 'input'"):
        user.graph()


def test_a_text_has_no_fields() -> None:
    with pytest.raises(AttributeError, match=f"{HERE}.*has no attribute 'upper'.*{REMEDY}") as caught:
        traced(lambda x, xs: x.upper())
    assert isinstance(caught.value, TraceError)
    traced(lambda x, xs: [x, hasattr(x, "upper")])


def test_a_value_cannot_leave_its_program() -> None:
    kept: list[Any] = []
    traced(lambda x, xs: kept.append(x))
    with pytest.raises(TraceError, match="outside of the run that made it"):
        traced(lambda x, xs: search("a", kept[0]))
    with pytest.raises(TraceError, match="value of another trace"):
        traced(lambda x, xs: gen(f"{kept[0]}"))
    with pytest.raises(TraceError, match="outside of the run that made it"):
        kept[0].equals("a")


def test_a_value_cannot_leave_the_body_that_made_it() -> None:
    def leak(x: Any, xs: Any) -> Any:
        kept: list[Any] = []

        def keep(word: Any) -> str:
            kept.append(gen(word))
            return "a"

        map(keep, xs)
        return kept[0]

    with pytest.raises(TraceError, match="outside of the run that made it"):
        traced(leak)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ask.invoke(),
            "program 'ask': missing a required argument: 'text'; it takes text, count, size",
        ),
        (
            lambda: ask.invoke("a", number=1),
            "unexpected keyword argument 'number'; it takes text, count, size",
        ),
        (lambda: ask.invoke(5), "program 'ask': argument 'text' must be str: .*got 5"),
        (lambda: ask.invoke("a", count="many"), "argument 'count' must be int"),
        (lambda: ask.invoke("a", size="big"), "argument 'size' must be int"),
        (lambda: wait_for.invoke(5), "program 'wait_for': argument 'text' must be str"),
        (lambda: ask.graph(count=1), "no static parameter 'count'; known: size"),
        (lambda: ask.invoke("a\ud800"), "argument 'text' holds half of a surrogate pair"),
        (lambda: ask.batch(["a"]), r"a call of batch\(\) is a dict or a tuple of arguments: write \('a',\)"),
        (lambda: ask.batch([("a",), (5,)]), "argument 'text' must be str"),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}.*{message}"):
        call()


def test_two_tools_of_one_name() -> None:
    def define() -> Any:
        @tool
        def same(a: int) -> int:
            return a

        return same

    with pytest.raises(TraceError, match="two different tools are called 'same'"):
        traced(lambda x, xs: [define()(1), define()(2)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy(attempts=0),
        lambda: RetryPolicy(backoff=-1.0),
        lambda: TimeoutPolicy(0.0),
        lambda: Chunking(max_chars=0),
    ],
)
def test_impossible_numbers(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


def test_errors_of_a_run_say_where() -> None:
    error = ProgramError("broken", program="p", node="%3 decode", location="app.py:4", worker="w1")
    assert str(error) == "program 'p', %3 decode (app.py:4), worker 'w1': broken"
    assert str(ProgramError("broken")) == "broken"


def test_a_var_may_be_looked_at() -> None:
    def look(x: Any, xs: Any) -> str:
        assert isinstance(x, Var)
        assert repr(x).startswith("<%0 text, a value of trace w")
        assert not hasattr(x, "__array__")
        assert {x: 1}[x] == 1
        return ""

    traced(look)


def test_a_var_is_its_own_copy() -> None:
    def copied(x: Any, xs: Any) -> str:
        assert copy.deepcopy({"a": [x]})["a"][0] is copy.copy(x) is x
        return ""

    traced(copied)


def test_who_prints_a_var_is_told_what_it_is() -> None:
    printed: list[str] = []
    traced(lambda x, xs: printed.append(f"{x}"))
    assert "a Var, whose value only the run will know" in printed[0]


def test_types_of_literals_are_read_as_texts() -> None:
    def literal(x: Any, xs: Any) -> Any:
        answer = gen(x, type=Literal["yes", "no"])
        return cond(answer.equals("yes"), answer + "!", "b")

    traced(literal)
