from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.frontend.cli.inputs import parse_inputs
from weft.frontend.cli.problems import UsageProblem


@pytest.mark.parametrize(
    ("value", "is_text", "expected"),
    [
        ("Where?", True, "Where?"),
        ("7", True, "7"),
        ("", True, ""),
        ("a=b", True, "a=b"),
        ("7", False, 7),
        ('["a", "b"]', False, ["a", "b"]),
        ('{"a": null}', False, {"a": None}),
        ("red", False, "red"),  # as for a Literal
        ("@@home", True, "@home"),
    ],
)
def test_values_are_json_unless_the_input_is_a_text(value: str, is_text: bool, expected: Any) -> None:
    assert parse_inputs([f"x={value}"], {"x": is_text}) == {"x": expected}


def test_values_come_from_files_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Grüße\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1, 2]"))
    found = parse_inputs([f"text=@{file}", "numbers=@-"], {"text": True, "numbers": False})
    assert found == {"text": "Grüße\n", "numbers": [1, 2]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["question"], "an input is written name=value, not 'question'"),
        (["q=1"], "there is no input 'q'; there are: question"),
        (["question=1", "question=2"], "the input 'question' is given twice"),
        (["question=@gone.txt"], "input 'question': the file 'gone.txt' cannot be read: No such file"),
    ],
)
def test_malformed_inputs_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse_inputs(given, {"question": True})
    assert str(caught.value).startswith(message)
