"""A folder of a user's own files: into an index, interrupted and resumed; answers name the files."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from weft.apps.doc_qa import answer
from weft.apps.reference_model.world import Corpus
from weft.apps.reference_model.world.passages import noun_forms

from ..pdf import pdf_of
from .conftest import WEFT, Server, eventually

FILES = 200
BROKEN = {
    "broken.pdf": b"%PDF-1.4 and no more",
    "broken.html": b"<p>a<![b]>",
    "scan.pdf": pdf_of([[]]),
    "latin.txt": b"caf\xe9",
}


@pytest.fixture(scope="module")
def world() -> Corpus:
    return Corpus(77, size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, world: Corpus) -> Path:
    """200 files in four formats and some folders, one for each subject, but for some that cannot be read."""
    made = tmp_path_factory.mktemp("files")
    for number, subject in enumerate(world.subjects[: FILES - len(BROKEN)]):
        texts = [placed.passage.text for placed in world.about(subject)]
        file = made / subject.kind / f"{subject.name}.{('md', 'txt', 'html', 'pdf')[number % 4]}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(_content(file.suffix, texts))
    for name, content in BROKEN.items():
        (made / name).write_bytes(content)
    return made


def _content(suffix: str, texts: list[str]) -> bytes:
    match suffix:
        case ".pdf":
            return pdf_of([[], *[text.split("  ") for text in texts]])
        case ".html":
            return "".join(f"<p>{text}</p>" for text in texts).encode()
        case _:
            return "\n\n".join(texts).encode()


def test_a_folder_is_indexed_again_after_an_interruption_and_asked(
    server: Server, folder: Path, world: Corpus
) -> None:
    command = [*WEFT, "index", "files", str(folder), "--server", server.address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: _passages(server) > 0)
        process.send_signal(signal.SIGINT)
    result = server.weft("index", "files", str(folder), "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["documents"] == FILES - len(BROKEN)
    assert report["passages_replaced"] == 0
    total = sum(len(world.about(subject)) for subject in world.subjects[: FILES - len(BROKEN)])
    assert report["passages_added"] < total  # the rest was there
    eventually(lambda: _passages(server) == total)
    assert report["skipped"].keys() == BROKEN.keys()
    for name in BROKEN:
        assert f"skipped: file '{name}'" in result.stderr

    again = server.weft("index", "files", str(folder))
    nothing = f"{report['documents']} documents, 0 passages added, 0 replaced, {len(BROKEN)} skipped"
    assert nothing in again.stdout

    ask = answer.using(server.client)
    for kind in ("md", "txt", "html", "pdf"):
        file, fact = next(
            (file, fact)
            for file in folder.rglob(f"*.{kind}")
            for fact in world.facts
            if fact.subject.name == file.stem and fact.relation.label in ("founding year", "hobby", "river")
        )
        question = fact.relation.questions[1].format_map(noun_forms(fact.subject.ref))
        found = ask(question, index="files")
        page = ", page 2" if kind == "pdf" else ""
        assert found.answer.startswith(f"{fact.value.text} [")
        assert found.sources == [file.relative_to(folder).as_posix() + page]


def _passages(server: Server) -> int:
    workers = server.client.describe().workers
    indexes = (index for worker in workers for engine in worker.engines for index in engine.indexes)
    return sum(index.passages for index in indexes if index.name == "files")
