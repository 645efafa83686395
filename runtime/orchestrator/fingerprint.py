"""What a primitive's results depend on, as a digest: if it is deterministic, equal digests, equal results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import groupby
from typing import Final

from weft.graph.ir import Value
from weft.graph.ops.base import Op
from weft.graph.values import Datum, EffectValue, Json, KvValue, Segment, TextValue, VectorsValue, strip

__all__ = ["Contents", "fingerprint"]

_BYTES: Final = 16


class Contents:
    """Digests of the values of a run; each is worked out once."""

    def __init__(self, values: Mapping[Value, Datum]) -> None:
        self._values = values
        self._digests: dict[Value, bytes] = {}

    def of(self, value: Value) -> bytes:
        """The digest of a known value."""
        if value not in self._digests:
            self._digests[value] = _digest(_content(self._values[value]))
        return self._digests[value]


def fingerprint(op: Op, model: str, operands: Mapping[str, bytes], context: KvValue | None = None) -> bytes:
    """The digest of an operation of `model` on operands, given by their digests, after a context in full."""
    parts = [repr(op).encode(), model.encode()]
    for name in sorted(operands):
        parts += [name.encode(), operands[name]]
    parts += _read(context.segments) if context is not None else ()
    return _digest(parts)


def _read(segments: Iterable[Segment]) -> Iterator[bytes]:
    """What a context consists of, however it was cut: texts that follow each other are read as one."""
    plain = groupby(segments, key=lambda s: (s.trusted, bool(s.text.ids) and not s.strip))
    for (trusted, sampled), alike in plain:
        if sampled:
            yield from (repr((s.text.text, s.text.ids, s.text.covered, trusted)).encode() for s in alike)
        else:
            yield repr(("".join(strip(s.text.text, s.strip) for s in alike), trusted)).encode()


def _content(datum: Datum) -> Iterable[bytes]:
    match datum:
        case TextValue(text=text):
            return (b"text", text.encode(errors="surrogatepass"))
        case Json(value=value):
            return (b"json", json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode())
        case VectorsValue(array=array):
            return (b"vectors", repr(array.shape).encode(), array.tobytes())
        case EffectValue():
            return (b"effect",)
        case _:
            raise TypeError(f"a {type(datum).__name__} has no content")


def _digest(parts: Iterable[bytes]) -> bytes:
    """One digest of all parts, each marked off by its length."""
    whole = blake2b(digest_size=_BYTES)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()
