"""Texts into terms: the analysis that lexical search and the built-in embedder share.

Case, compatibility forms and Latin, Greek and Cyrillic accents are folded; an English possessive is taken
off; a run of Chinese or Japanese, which has no spaces, gives its characters and pairs of characters, as
Lucene's CJK analyzer does. No stop words: inverse document frequency does their work in any language.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["terms"]

_ACCENTS = re.compile("[\u0300-\u036f]")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s?\b|(?<=\w)['’](?!\w)")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SYMBOLS = "\u2600-\u27bf\U0001f300-\U0001faff"  # dingbats and emoji are words too
_TERM = re.compile(f"[{_CJK}]+|[^\\W{_CJK}]+|[{_SYMBOLS}]")
_IS_CJK = re.compile(f"[{_CJK}]")


def terms(text: str) -> list[str]:
    """The terms of `text` in order, repeats included; none for a text without letters, digits or emoji."""
    found: list[str] = []
    for term in _TERM.findall(_POSSESSIVE.sub("", _folded(text))):
        if len(term) > 1 and _IS_CJK.match(term):
            found.extend(term)
            found.extend(term[i : i + 2] for i in range(len(term) - 1))
        else:
            found.append(term)
    return found


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))
