"""Values at run time: token ids as little-endian uint32, vectors as little-endian float32, row-major."""

from __future__ import annotations

import json
from typing import Final

import numpy as np

from weft.proto import value_pb2 as pb

from .. import schema as json_schema
from ..errors import GraphError
from ..prompt import Strip
from ..values import EFFECT, Datum, EffectValue, Json, KvValue, Segment, TextValue, VectorsValue
from .records import Place, listed, wire_of

__all__ = ["decode_datum", "encode_datum"]

_TEXT: Final = Place(path="text")
_IDS: Final = np.dtype("<u4")
_VECTORS: Final = np.dtype("<f4")


def encode_datum(datum: Datum) -> pb.Datum:
    """The value as a message. Raises GraphError for what has none (NaN, what is no JSON)."""
    try:
        match datum:
            case TextValue():
                return pb.Datum(text=_encode_text(datum))
            case Json(value):
                return pb.Datum(json=json.dumps(value, ensure_ascii=False, allow_nan=False))
            case VectorsValue():
                return pb.Datum(vectors=_encode_vectors(datum))
            case KvValue(key, segments):
                return pb.Datum(kv=pb.KvDatum(key=key, segments=map(_encode_segment, segments)))
            case EffectValue():
                return pb.Datum(effect=pb.EffectDatum())
    except (ValueError, TypeError, OverflowError, RecursionError) as problem:
        raise GraphError(f"a {type(datum).__name__} cannot be encoded: {problem}") from None


def decode_datum(message: pb.Datum) -> Datum:
    """The value that the message says. Raises GraphError for malformed JSON, ids, vectors and segments."""
    match message.WhichOneof("kind"):
        case "text":
            return _decode_text(message.text, _TEXT)
        case "json":
            return _decode_json(message.json)
        case "vectors":
            return _decode_vectors(message.vectors)
        case "kv":
            return _decode_kv(message.kv)
        case "effect":
            return EFFECT
        case _:
            kinds = listed(field.name for field in pb.Datum.DESCRIPTOR.fields)
            raise GraphError(f"a value must be one of {kinds}")


def _encode_text(text: TextValue) -> pb.TextDatum:
    if not text.ids:
        return pb.TextDatum(text=text.text, tokenizer=text.tokenizer, covered=text.covered)
    ids = np.array(text.ids, dtype=_IDS).tobytes()
    return pb.TextDatum(text=text.text, ids=ids, tokenizer=text.tokenizer, covered=text.covered)


def _decode_text(message: pb.TextDatum, place: Place) -> TextValue:
    if not (message.ids or message.covered):
        return TextValue(message.text, (), message.tokenizer)
    if len(message.ids) % _IDS.itemsize:
        raise place.field("ids").error(f"{len(message.ids)} bytes are no sequence of 4-byte token ids")
    if message.covered > len(message.text):
        length = len(message.text)
        raise place.field("covered").error(f"{message.covered} exceeds the text's {length} characters")
    ids = tuple(np.frombuffer(message.ids, dtype=_IDS).tolist())
    return TextValue(message.text, ids, message.tokenizer, message.covered)


def _decode_json(text: str) -> Json:
    try:
        return Json(json_schema.loads(text))
    except ValueError as problem:
        raise GraphError(f"json: not a JSON text: {problem}") from None


def _encode_vectors(vectors: VectorsValue) -> pb.VectorsDatum:
    rows, columns = vectors.array.shape
    data = np.ascontiguousarray(vectors.array, dtype=_VECTORS).tobytes()
    return pb.VectorsDatum(data=data, rows=rows, columns=columns)


def _decode_vectors(message: pb.VectorsDatum) -> VectorsValue:
    rows, columns, size = message.rows, message.columns, len(message.data)
    if size != rows * columns * _VECTORS.itemsize:
        raise GraphError(f"vectors: {size} bytes are no float32 matrix of {rows} x {columns}")
    array = np.frombuffer(message.data, dtype=_VECTORS).reshape(rows, columns)
    return VectorsValue(array.astype(np.float32, copy=False))


def _encode_segment(segment: Segment) -> pb.Segment:
    return pb.Segment(text=_encode_text(segment.text), trusted=segment.trusted, strip=segment.strip)


def _decode_kv(message: pb.KvDatum) -> KvValue:
    place = Place(path="kv").field("segments")
    segments = (_decode_segment(segment, place.item(index)) for index, segment in enumerate(message.segments))
    return KvValue(message.key, tuple(segments))


def _decode_segment(message: pb.Segment, place: Place) -> Segment:
    strip = wire_of(Strip).decode(message.strip, place.field("strip"))
    return Segment(_decode_text(message.text, place.field("text")), message.trusted, strip)
