"""Cutting documents into chunks.

Nothing but white space (and, by paragraphs, the heading lines) is lost: the chunks of a document, in order,
hold all its other characters. Where form feeds stand between the pages of a document, they separate
paragraphs as well, whose metadata then say on which `page` they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from weft.graph.ops.user import Chunking

from .documents import Chunk, Document, JsonScalar

__all__ = ["chunk"]

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？][”’」』）]*")
_JOINERS = "\u200d\ufe0e\ufe0f"  # zero-width joiner and variation selectors, as in emoji


def chunk(document: Document, chunking: Chunking) -> list[Chunk]:
    """The chunks of `document`, in order, with ids `DOCUMENT#1`, `DOCUMENT#2`, …

    A document without text (or, by paragraphs, of headings only) has none. A single word longer than
    `max_chars` is cut within, but never inside a combined character if that can be avoided.
    """
    cut = _paragraph_pieces if chunking.strategy == "paragraph" else _windows
    return [
        Chunk(
            id=f"{document.id}#{position}",
            document=document.id,
            text=text,
            source=document.source,
            position=position,
            metadata={**document.metadata, **extra},
        )
        for position, (text, extra) in enumerate(cut(document.text, chunking), start=1)
    ]


_Piece = tuple[str, dict[str, JsonScalar]]  # a text and the metadata that it adds


def _paragraph_pieces(text: str, chunking: Chunking) -> Iterator[_Piece]:
    headings: dict[int, str] = {}  # by level
    pages = text.split("\f")
    for number, page in enumerate(pages, start=1):
        place: dict[str, JsonScalar] = {"page": number} if len(pages) > 1 else {}
        for paragraph, heading in _paragraphs(page, headings):
            extra = {"heading": heading, **place} if heading else place
            title = f"{heading}\n" if heading and chunking.titles else ""
            for piece in _sentences(paragraph, chunking.max_chars):
                yield title + piece, extra


def _paragraphs(text: str, headings: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Each paragraph with the headings that it stands under. A fenced code block is never split.

    `headings` are those that the text begins under, by their levels, and then those that it ends under.
    """
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        if fence or (line.strip() and not _HEADING.fullmatch(line)):
            lines.append(line)
            fence = _fence_after(line, fence)
            continue
        yield from _joined(lines, headings)
        lines = []
        if match := _HEADING.fullmatch(line):
            level = len(match[1])
            for lower in [other for other in headings if other >= level]:
                del headings[lower]
            headings[level] = match[2] or ""
    yield from _joined(lines, headings)


def _joined(lines: list[str], headings: dict[int, str]) -> Iterator[tuple[str, str]]:
    if paragraph := "\n".join(lines).strip():
        yield paragraph, " > ".join(title for title in headings.values() if title)


def _fence_after(line: str, fence: str) -> str:
    """The mark of the code block that is open after `line`, given the one before it ("": none)."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    if not fence:
        return match[1]
    return "" if match[1] == fence else fence


def _sentences(text: str, limit: int) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters: as many whole sentences as fit, else words."""
    start = 0
    while start < len(text):
        end = _sentence_cut(text, start, limit)
        if piece := text[start:end].strip():
            yield piece
        start = _skip_space(text, end)


def _windows(text: str, chunking: Chunking) -> Iterator[_Piece]:
    text = text.rstrip()
    start = _skip_space(text, 0)
    while start < len(text):
        end = _word_cut(text, start, chunking.max_chars)
        yield text[start:end].strip(), {}
        if end == len(text):
            return
        earliest = max(end - chunking.overlap, start + 1)
        start = _skip_space(text, _word_start(text, earliest, end))


def _sentence_cut(text: str, start: int, limit: int) -> int:
    """The last end of a sentence in `text[start : start + limit]`, else the best cut between words."""
    if len(text) - start <= limit:
        return len(text)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, start, start + limit + 1)]
    ends = [end for end in ends if end <= start + limit]
    return ends[-1] if ends else _word_cut(text, start, limit)


def _word_cut(text: str, start: int, limit: int) -> int:
    """The last white space in `text[start + 1 : start + limit + 1]`, else between two characters."""
    if len(text) - start <= limit:
        return len(text)
    for end in range(start + limit, start, -1):
        if text[end].isspace():
            return end
    for end in range(start + limit, start, -1):
        if not _continues(text, end):
            return end
    return start + limit


def _word_start(text: str, earliest: int, latest: int) -> int:
    """The first beginning of a word in `text[earliest:latest]`, else `latest`."""
    for start in range(earliest, latest):
        if text[start - 1].isspace() and not text[start].isspace():
            return start
    return latest


def _continues(text: str, index: int) -> bool:
    """Whether a cut at `index` would separate a mark or joiner from the character that it belongs to."""
    here, before = text[index], text[index - 1]
    return unicodedata.category(here).startswith("M") or here in _JOINERS or before == "\u200d"


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start
