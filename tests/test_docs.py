"""What stands in the pages for users can be done: programs are traced, settings read, graphs verified."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import weft
from weft import Document, program, tool
from weft.graph.codec import from_json
from weft.graph.verify import verify
from weft.runtime.config import load_settings

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@dataclass
class Weather:
    degrees: float


@tool
def judge(text: str) -> bool:
    return bool(text)


NAMES = {name: getattr(weft, name) for name in weft.__all__} | {
    "Weather": Weather,
    "judge": judge,
}
# What needs a server, and what stands in other code.
ELSEWHERE = ("headline(", "aevents(", "FastAPI", "asyncio.wait(")
CONSTRUCTS = [code for code in blocks("docs/language.md", "python") if not any(e in code for e in ELSEWHERE)]


@pytest.mark.parametrize("code", CONSTRUCTS, ids=range(len(CONSTRUCTS)))
def test_the_constructs_of_the_language_can_be_traced(code: str) -> None:
    @program
    def page(
        question: str, task: str, queries: list[str], documents: list[Document], verdict: Literal["yes", "no"]
    ) -> str:
        draft = weft.gen(question)
        exec(code, NAMES | locals() | {"prompt": question, "text": draft, "pages": queries})
        return task

    page.graph()


def test_every_option_of_gen_is_there() -> None:
    (call,) = (ast.parse(code, mode="eval").body for code in CONSTRUCTS if code.startswith("gen("))
    assert isinstance(call, ast.Call)
    shown = {str(option.arg): ast.unparse(option.value) for option in call.keywords}
    options = list(inspect.signature(weft.gen).parameters.values())[1:]
    assert shown == {option.name: repr(option.default) for option in options} | {"type": "str"}


def test_the_programs_can_be_traced() -> None:
    programs: list[Any] = []
    for page in ("README.md", "docs/language.md"):
        module = ast.parse(blocks(page, "python")[0])
        module.body = [part for part in module.body if isinstance(part, (ast.ImportFrom, ast.FunctionDef))]
        names: dict[str, Any] = {}
        exec(compile(module, page, "exec"), names)
        programs += [value for value in names.values() if isinstance(value, weft.Program)]
    assert [len(program.graph().outputs) for program in programs] == [1, 1]


def test_graphs_are_graphs() -> None:
    for text in blocks("docs/graphs.md", "json"):
        verify(from_json(text))


@pytest.mark.parametrize("page", ["docs/operations.md", "docs/upstream.md"])
def test_settings_are_taken(page: str, tmp_path: Path) -> None:
    (text,) = blocks(page, "toml")
    file = tmp_path / "weft.toml"
    file.write_text(text, encoding="utf-8")
    assert load_settings(file).models[0].name == "qwen"


def test_the_simulator_simulates(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("docs/scheduling.md", "python")
    exec(code, {})
    assert capsys.readouterr().out.startswith("Report(failed=0,")


PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("apps/*/README.md"),
    *ROOT.glob("benchmarks/**/*.md"),
]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_result_of_a_benchmark_stands_on_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"([\w.-]+)\.(?:json|html|txt|log)\b", pages))
    results = {file.stem for file in (ROOT / "benchmarks/results").iterdir()}
    assert results <= named
