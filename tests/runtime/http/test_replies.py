"""Tool calls in what models write: every form, in pieces of every size."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.http.bodies import FunctionBody, ToolBody
from weft.runtime.http.replies import Delta, message_of, reader_for
from weft.runtime.http.tools import NO_TOOLS, Toolbox

TOOLS = tuple(ToolBody(type="function", function=FunctionBody(name=name)) for name in ("add", "look_up"))
AUTO = Toolbox(TOOLS, "auto")
FORCED = Toolbox(TOOLS, "required")
ADD = '{"name": "add", "arguments": {"a": 1, "b": [2, "}"]}}'
LOOK = '{"name": "look_up", "arguments": {}}'


def read(tools: Toolbox, pieces: list[str]) -> tuple[list[Delta], bool]:
    reader = reader_for(tools)
    deltas = [delta for piece in pieces for delta in reader.push(piece)]
    return [*deltas, *reader.close()], reader.called


def calls(message: dict[str, Any]) -> list[tuple[str, Any]]:
    called = [call["function"] for call in message.get("tool_calls", [])]
    return [(call["name"], json.loads(call["arguments"])) for call in called]


ADDED = ("add", {"a": 1, "b": [2, "}"]})
LOOKED: tuple[str, Any] = ("look_up", {})
CASES = [
    ("plain", "There are 3 < 4.", "There are 3 < 4.", []),
    ("empty", "", "", []),
    ("hermes", f"<tool_call>\n{ADD}\n</tool_call>", None, [ADDED]),
    ("hermes after white space", f"\n\n<tool_call>{ADD}</tool_call>\n", None, [ADDED]),
    (
        "two of hermes",
        f"<tool_call>\n{ADD}\n</tool_call>\n<tool_call>\n{LOOK}\n</tool_call>",
        None,
        [ADDED, LOOKED],
    ),
    ("content, then hermes", f"I add. <tool_call>{ADD}</tool_call>", "I add.", [ADDED]),
    (
        "content around calls",
        f"I add. \n<tool_call>{ADD}</tool_call> And look, <tool_call>{LOOK}</tool_call> so. ",
        "I add. And look, so.",
        [ADDED, LOOKED],
    ),
    ("hermes without its end", f"Well: <tool_call>\n{ADD}", "Well:", [ADDED]),
    ("llama", '{"name": "add", "parameters": {"a": 1, "b": [2, "}"]}}', None, [ADDED]),
    ("mistral", f"[TOOL_CALLS][{ADD}, {LOOK}]", None, [ADDED, LOOKED]),
    ("mistral without its token", f" [{LOOK}]", None, [LOOKED]),
    ("JSON that is no call", '{"name": "add"}', '{"name": "add"}', []),
    ("a tool that there is not", '{"name": "sub", "arguments": {}}', '{"name": "sub", "arguments": {}}', []),
    ("a list of which one is no call", f"[{LOOK}, 1]", f"[{LOOK}, 1]", []),
    ("JSON in content", f"See: {LOOK}", f"See: {LOOK}", []),
    ("a broken call", "<tool_call>{oops</tool_call> sorry", "<tool_call>{oops</tool_call> sorry", []),
    ("a broken call in content", "So <tool_call>{a</tool_call> b ", "So <tool_call>{a</tool_call> b ", []),
    ("JSON without end", "[{" * 9_000, "[{" * 9_000, []),
    ("half a mark at the end", "a <tool_", "a <tool_", []),
    ("JSON after content", '{"a": 1} is JSON', '{"a": 1} is JSON', []),
]


@pytest.mark.parametrize(
    ("text", "content", "called"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_forms_of_calls_in_one_piece_and_letter_by_letter(
    text: str, content: str | None, called: list[tuple[str, Any]]
) -> None:
    for pieces in ([text], list(text)):
        deltas, has_called = read(AUTO, pieces)
        message = message_of(deltas)
        assert (message["content"], calls(message), has_called) == (content, called, bool(called))
        assert message["role"] == "assistant"


def test_calls_have_ids_of_nine_letters_that_differ() -> None:
    deltas, _ = read(AUTO, [f"<tool_call>{ADD}</tool_call><tool_call>{ADD}</tool_call>"])
    ids = [call["id"] for call in message_of(deltas)["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(len(found) == 9 and found.isalnum() for found in ids)


def test_without_parallel_calls_there_is_one() -> None:
    text = f"<tool_call>{ADD}</tool_call><tool_call>{LOOK}</tool_call>"
    deltas, _ = read(Toolbox(TOOLS, "auto", parallel=False), [text])
    assert calls(message_of(deltas)) == [ADDED]


def test_without_tools_all_is_content() -> None:
    text = f"<tool_call>{ADD}</tool_call>"
    assert read(NO_TOOLS, list(text))[0] == [{"content": letter} for letter in text]


def test_content_is_not_held_back() -> None:
    reader = reader_for(AUTO)
    assert reader.push("Let me ") == [{"content": "Let me"}]
    assert reader.push("see <") == [{"content": " see"}]
    assert reader.push("b> ") == [{"content": " <b>"}]
    assert reader.close() == [{"content": " "}]
    assert reader_for(AUTO).push("[1] says so") == [{"content": "[1] says so"}]


def test_arguments_of_a_forced_call_are_streamed() -> None:
    reader = reader_for(FORCED)
    assert reader.push('{"name": "add", "argu') == []
    (head,) = reader.push('ments": {')
    assert head["tool_calls"][0]["function"] == {"name": "add", "arguments": ""}
    (piece,) = reader.push('"a": 1')
    assert piece["tool_calls"][0]["function"] == {"arguments": '{"a": '}
    rest = [
        delta["tool_calls"][0]["function"]["arguments"] for text in ("}", "}") for delta in reader.push(text)
    ]
    assert (rest, reader.close()) == (["1", "}"], [])


FRAGMENTS = [" ", "a", "\n", "<tool_call>", "</tool_call>", ADD, LOOK, "<", "tool", "{oops", " b ", "."]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)


@given(st.data())
def test_pieces_change_nothing(data: st.DataObject) -> None:
    known = [*((AUTO, case[1]) for case in CASES), (FORCED, ADD), (FORCED, LOOK)]
    tools, text = data.draw(st.sampled_from(known) | st.tuples(st.just(AUTO), TEXTS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, cut = message_of(read(tools, [text])[0]), message_of(read(tools, pieces)[0])
    assert (whole["content"], calls(whole)) == (cut["content"], calls(cut))
