"""Calls of whatever is called; those of known tools are read in tests/runtime/http/test_replies.py."""

from __future__ import annotations

import pytest

from weft.runtime.calling.reading import Called, CallReader, Said, call_text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "any", "arguments": {}}', [Called("any", {})]),
        ('<tool_call>{"name": "any", "arguments": "x"}</tool_call>', [Called("any", "x")]),
        (
            '[{"name": "a", "parameters": {}}, {"name": "b", "parameters": [1]}]',
            [Called("a", {}), Called("b", [1])],
        ),
        ("So. <tool_call>{</tool_call>", ["So.", " <tool_call>{</tool_call>"]),
        ('{"name": "any"}', ['{"name": "any"}']),
        ('{"name": 1, "arguments": {}}', ['{"name": 1, "arguments": {}}']),
    ],
)
def test_without_names_all_that_has_the_form_is_a_call(text: str, said: list[Said]) -> None:
    reader = CallReader()
    assert [*reader.push(text), *reader.close()] == said
    assert reader.called == any(isinstance(piece, Called) for piece in said)


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"', "[" * 150 + "]" * 150, "[" * 100_000])
def test_what_no_json_carries_is_text(value: str) -> None:
    text = f'{{"name": "f", "arguments": {{"x": {value}}}}}'
    reader = CallReader()
    assert [*reader.push(text), *reader.close()] == [text]


def test_a_call_that_is_written_is_read_again() -> None:
    reader = CallReader(["f"])
    assert reader.push(call_text("f", {"a": "ü"})) == [Called("f", {"a": "ü"})]
