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

__all__ = ["decode_datum", "encode_datum", "write_datum"]

_TEXT: Final = Place(path="text")
_IDS: Final = np.dtype("<u4")
_VECTORS: Final = np.dtype("<f4")


def encode_datum(datum: Datum) -> pb.Datum:
    """The value as a message. Raises GraphError for what has none (NaN, what is no JSON)."""
    message = pb.Datum()
    write_datum(datum, message)
    return message


def write_datum(datum: Datum, message: pb.Datum) -> None:
    """Make an empty message, which may be part of a larger one, say the value. Raises as `encode_datum`.

    A message that is given to a larger one is copied, which takes longer than to write it.
    """
    try:
        match datum:
            case TextValue():
                _write_text(datum, message.text)
            case Json(value):
                message.json = json.dumps(value, ensure_ascii=False, allow_nan=False)
            case VectorsValue():
                _write_vectors(datum, message.vectors)
            case KvValue(key, segments):
                message.kv.key = key
                for segment in segments:
                    _write_segment(segment, message.kv.segments.add())
            case EffectValue():
                message.effect.SetInParent()
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


def _write_text(text: TextValue, message: pb.TextDatum) -> None:
    message.text, message.tokenizer, message.covered = text.text, text.tokenizer, text.covered
    if text.ids:
        message.ids = np.array(text.ids, dtype=_IDS).tobytes()


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


def _write_vectors(vectors: VectorsValue, message: pb.VectorsDatum) -> None:
    message.rows, message.columns = vectors.array.shape
    message.data = np.ascontiguousarray(vectors.array, dtype=_VECTORS).tobytes()


def _decode_vectors(message: pb.VectorsDatum) -> VectorsValue:
    rows, columns, size = message.rows, message.columns, len(message.data)
    if size != rows * columns * _VECTORS.itemsize:
        raise GraphError(f"vectors: {size} bytes are no float32 matrix of {rows} x {columns}")
    array = np.frombuffer(message.data, dtype=_VECTORS).reshape(rows, columns)
    return VectorsValue(array.astype(np.float32, copy=False))


def _write_segment(segment: Segment, message: pb.Segment) -> None:
    _write_text(segment.text, message.text)
    message.trusted, message.strip = segment.trusted, segment.strip


def _decode_kv(message: pb.KvDatum) -> KvValue:
    place = Place(path="kv").field("segments")
    segments = (_decode_segment(segment, place.item(index)) for index, segment in enumerate(message.segments))
    return KvValue(message.key, tuple(segments))


def _decode_segment(message: pb.Segment, place: Place) -> Segment:
    strip = wire_of(Strip).decode(message.strip, place.field("strip"))
    return Segment(_decode_text(message.text, place.field("text")), message.trusted, strip)
