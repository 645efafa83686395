from __future__ import annotations

import sys

import pytest

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Document
from weft.runtime.retrieval.errors import CorpusError
from weft.runtime.retrieval.formats import text_of

from ...pdf import pdf_of


def test_plain_text_loses_its_byte_order_mark() -> None:
    assert text_of("a.txt", "\ufeffé\n".encode()) == "é\n"


def test_html_becomes_markdown_without_what_is_not_read() -> None:
    page = """<html><head><title>T</title><style>p {}</style></head><body><script>let x</script>
    <h2>The <b>lease</b></h2><p>It ends <a href="/x">in 2030</a>.</p><ul><li>One</li></ul></body></html>"""
    chunks = chunk(Document("a.html", text_of("a.html", page.encode())), Chunking())
    assert [(each.text, each.metadata) for each in chunks] == [
        ("It ends in 2030.", {"heading": "The lease"}),
        ("* One", {"heading": "The lease"}),
    ]


def test_html_says_its_own_encoding() -> None:
    page = '<meta charset="latin-1"><p>Stra\xdfe</p>'.encode("latin-1")
    assert text_of("a.HTM", page).strip() == "Straße"


def test_pdf_pages_are_kept_apart() -> None:
    text = text_of("a.pdf", pdf_of([["The lease", "ends in 2030."], [], ["Signed."]]))
    chunks = chunk(Document("a.pdf", text), Chunking())
    assert [(each.text, each.metadata["page"]) for each in chunks] == [
        ("The lease\nends in 2030.", 1),
        ("Signed.", 3),
    ]


@pytest.mark.parametrize("content", [b"", b"no pdf", pdf_of([["x"]])[:80], b"%PDF-1.4\n" + b"\x00" * 999])
def test_broken_pdf_files_are_named(content: bytes) -> None:
    with pytest.raises(CorpusError, match=r"^file 'sub/a\.pdf' cannot be read as PDF: "):
        text_of("sub/a.pdf", content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"<p>a<![b]>", "it is malformed"), (b"<div>" * 9999, "it is nested too deep")],
)
def test_broken_html_files_are_named(content: bytes, problem: str) -> None:
    with pytest.raises(CorpusError, match=rf"^file 'sub/a\.html' cannot be read as HTML: {problem}$"):
        text_of("sub/a.html", content)


def test_html_without_an_encoding_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CorpusError, match=r"^file 'a\.html' is in no encoding that its bytes fit; convert"):
        text_of("a.html", bytes(range(128, 256)) * 3)
    assert not caplog.records


def test_what_is_not_utf_8_is_named() -> None:
    with pytest.raises(CorpusError, match=r"file 'a\.md' is not UTF-8 \(byte 2"):
        text_of("a.md", b"ab\xff")


@pytest.mark.parametrize(("name", "package"), [("a.html", "bs4"), ("a.pdf", "pypdf")])
def test_a_missing_package_says_how_to_get_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CorpusError, match=rf"needs {package}; pip install 'weft\[documents\]'"):
        text_of(name, b"x")


def test_other_formats_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"'a\.doc' is of no known format; known: \.md"):
        text_of("a.doc", b"x")
