from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.retrieval.documents import Chunk, Document, Passage
from weft.runtime.retrieval.errors import CorpusError
from weft.runtime.retrieval.folders import files_of, read_folder

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
metadata = st.dictionaries(st.text(), scalars, max_size=3)
names = st.text(min_size=1)


@given(names, st.text(), st.text(), metadata)
def test_documents_survive_json(id: str, text: str, source: str, extra: dict[str, object]) -> None:
    document = Document.from_json({"id": id, "text": text, "source": source, "metadata": extra})
    assert Document.from_json(json.loads(json.dumps(document.to_json()))) == document


@given(names, st.text(), st.integers(min_value=1), metadata)
def test_chunks_survive_json(id: str, text: str, position: int, extra: dict[str, None]) -> None:
    chunk = Chunk(id, "d", text, "s", position, extra)
    assert Chunk.from_json(json.loads(json.dumps(chunk.to_json()))) == chunk


def test_a_passage_is_seen_by_programs_as_five_fields() -> None:
    passage = Passage("a.md#1", "text", 0.5, "a.md", {"heading": "A"})
    assert passage.to_json() == {
        "id": "a.md#1",
        "text": "text",
        "score": 0.5,
        "source": "a.md",
        "metadata": {"heading": "A"},
    }
    assert Passage.from_json(passage.to_json()) == passage


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, r"passage\.id must not be empty"),
        ({"id": 3}, r"passage\.id must be a string, not 3"),
        ({"text": None}, r"passage\.text must be a string, not None"),
        ({"score": "high"}, r"passage\.score must be a finite number, not a str"),
        ({"score": True}, r"passage\.score must be a finite number, not True"),
        ({"score": float("nan")}, r"passage\.score must be a finite number, not nan"),
        ({"source": []}, r"passage\.source must be a string, not a list"),
        ({"metadata": []}, r"passage\.metadata must be an object, not a list"),
        ({"metadata": {"a": []}}, r"passage\.metadata\['a'\] must be a string, finite number"),
        ({"metadata": {1: "x"}}, r"passage\.metadata has the key 1"),
        ({"extra": 1}, r"passage has no field 'extra'"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Passage.from_json({"id": "a", "text": "t", "score": 1, **change})


def test_missing_fields_and_wrong_kinds_are_named() -> None:
    with pytest.raises(ValueError, match=r"document\.text is missing"):
        Document.from_json({"id": "a"})
    with pytest.raises(ValueError, match="a chunk must be a JSON object, not a list"):
        Chunk.from_json([])
    with pytest.raises(ValueError, match=r"chunk\.position must be an integer from 1, not 0"):
        Chunk.from_json({"id": "a", "document": "d", "text": "t", "position": 0})


def test_a_folder_is_read_in_order_with_relative_ids(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b.txt").write_text("é", encoding="utf-8-sig")
    (tmp_path / "sub" / "a.MD").write_text("in the folder", encoding="utf-8")
    (tmp_path / ".git" / "x.md").write_text("hidden", encoding="utf-8")
    (tmp_path / "c.doc").write_bytes(b"\xff")
    found = read_folder(tmp_path)
    assert found == [Document("b.txt", "é", "b.txt"), Document("sub/a.MD", "in the folder", "sub/a.MD")]


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_folder(tmp_path / "none")
    with pytest.raises(CorpusError, match=r"holds no \.md, \.txt, \.html, \.htm, \.pdf file"):
        read_folder(tmp_path)
    (tmp_path / "bad.md").write_bytes(b"ab\xff")
    with pytest.raises(CorpusError, match=r"bad\.md' is not UTF-8 \(byte 2"):
        read_folder(tmp_path)
    with pytest.raises(CorpusError, match="is a file, not a folder"):
        read_folder(tmp_path / "bad.md")
    (tmp_path / "bad.md").rename(tmp_path / "b\udcffd.md")
    with pytest.raises(CorpusError, match=r"file 'b\\udcffd.md' has a name that is not UTF-8; rename it"):
        read_folder(tmp_path)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that may become too deep for what tidies up after tests."""
    folder = tmp_path / "deep"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_folder_in_it_that_cannot_be_read_is_named(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (deep / "a.md").write_text("a")
    monkeypatch.chdir(deep)
    name = "d" * 255
    for _ in range(17):  # longer than a path may be
        Path(name).mkdir()
        os.chdir(name)
    skipped: dict[str, CorpusError] = {}
    assert files_of(deep, skipped.__setitem__) == {"a.md": deep / "a.md"}
    ((found, problem),) = skipped.items()
    assert set(found) == {"d", "/"}
    assert str(problem) == f"folder {found!r} cannot be read: File name too long"
    with pytest.raises(CorpusError, match=r"^folder 'd.* cannot be read"):
        files_of(deep)


def test_neither_depth_nor_links_stand_in_the_way(deep: Path) -> None:
    inner = deep.joinpath(*["d"] * 1100)
    os.makedirs(deep.joinpath(*["d"] * 600))
    os.makedirs(inner)
    (inner / "a.md").write_text("a")
    (deep / "loop").symlink_to(deep)
    (deep / "self.md").symlink_to("self.md")
    (deep / "none.md").symlink_to("nowhere")
    (deep / "endless.md").symlink_to("/dev/zero")
    (deep / "same.md").symlink_to(inner / "a.md")
    assert list(files_of(deep)) == ["/".join(["d"] * 1100) + "/a.md", "same.md"]
