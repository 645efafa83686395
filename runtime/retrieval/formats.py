"""Files of several formats as text: Markdown and plain text as they are, HTML as Markdown, PDF by pages."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from .errors import CorpusError

__all__ = ["FORMATS", "text_of"]

_HIDDEN: Final = ("head", "script", "style", "template", "noscript")
_PLAIN: Final = ("a", "b", "em", "i", "img", "strong")  # elements of which only the text counts


def text_of(name: str, content: bytes) -> str:
    """The text of a file; `name` says its format. A form feed stands between the pages of a PDF file.

    HTML and PDF need the extra `weft[documents]`. Raises `CorpusError` that names the file and says what is
    wrong with it.
    """
    suffix = f".{name.rpartition('.')[2].lower()}"
    if suffix not in FORMATS:
        raise CorpusError(f"file {name!r} is of no known format; known: {', '.join(FORMATS)}")
    return FORMATS[suffix](name, content)


def _plain(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # a byte order mark is not text
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"file {name!r} is not UTF-8 (byte {error.start}: {error.reason}); convert or remove it"
        ) from error


def _html(name: str, content: bytes) -> str:
    bs4, markdownify = _module("bs4", name), _module("markdownify", name)
    logging.getLogger("bs4.dammit").setLevel(logging.ERROR)  # its warning does not name the file
    converter = markdownify.MarkdownConverter(heading_style="ATX", strip=_PLAIN)
    try:
        soup = bs4.BeautifulSoup(content, "html.parser")  # which finds out the encoding
        if soup.contains_replacement_characters:
            raise CorpusError(f"file {name!r} is in no encoding that its bytes fit; convert or remove it")
        for element in soup(_HIDDEN):
            element.decompose()
        return str(converter.convert_soup(soup))
    except RecursionError as error:
        raise CorpusError(f"file {name!r} cannot be read as HTML: it is nested too deep") from error
    except bs4.ParserRejectedMarkup as error:
        raise CorpusError(f"file {name!r} cannot be read as HTML: it is malformed") from error


def _pdf(name: str, content: bytes) -> str:
    pypdf = _module("pypdf", name)
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # of many files it mends what it can, and says so
    try:
        text = "\f".join(page.extract_text() for page in pypdf.PdfReader(BytesIO(content)).pages)
        return text.encode("utf-8", "replace").decode()  # some fonts give halves of surrogate pairs
    except Exception as error:  # the library raises whatever its parts do on a broken file
        raise CorpusError(f"file {name!r} cannot be read as PDF: {error or type(error).__name__}") from error


def _module(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CorpusError(f"file {name!r} needs {package}; pip install 'weft[documents]'") from error


FORMATS: Final[dict[str, Callable[[str, bytes], str]]] = {
    ".md": _plain,
    ".txt": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
"""How a file is read, by the end of its name."""
