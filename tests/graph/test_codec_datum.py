from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.graph.codec import decode_datum, encode_datum
from weft.graph.errors import GraphError
from weft.graph.values import EFFECT, Datum, Json, KvValue, Segment, TextValue, VectorsValue
from weft.proto import value_pb2 as pb


@st.composite
def texts(draw: Any) -> TextValue:
    text = draw(st.text(max_size=20))
    ids = draw(st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple))
    return TextValue(text, ids, draw(st.text(max_size=5)), draw(st.integers(0, len(text))))


SEGMENTS = st.builds(Segment, texts(), st.booleans(), st.sampled_from(["", "left", "right", "both"]))
MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4),
    elements=st.floats(-1, 1, width=32),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
DATA = (
    texts()
    | JSON.map(Json)
    | MATRICES.map(VectorsValue)
    | st.builds(KvValue, st.text(), st.lists(SEGMENTS, max_size=3).map(tuple))
    | st.just(EFFECT)
)


@given(DATA)
def test_values_survive(datum: Datum) -> None:
    assert decode_datum(pb.Datum.FromString(encode_datum(datum).SerializeToString())) == datum


def test_ids_and_vectors_travel_as_little_endian_bytes() -> None:
    text = encode_datum(TextValue("ab", (1, 0x01020304), "t", 2)).text
    assert text.ids == bytes([1, 0, 0, 0, 4, 3, 2, 1])
    vectors = encode_datum(VectorsValue(np.array([[1.0, -2.0]], dtype=np.float32).T)).vectors
    assert vectors.data == bytes.fromhex("0000803f 000000c0")
    assert (vectors.rows, vectors.columns) == (2, 1)


def test_vectors_in_any_memory_order_travel_row_by_row() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert not array.flags.c_contiguous
    assert decode_datum(encode_datum(VectorsValue(array))) == VectorsValue(np.ascontiguousarray(array))


@pytest.mark.parametrize(
    ("datum", "problem"),
    [
        (Json(float("nan")), "a Json cannot be encoded: Out of range float values"),
        (Json({1, 2}), "a Json cannot be encoded: Object of type set"),
        (TextValue("\ud800"), "a TextValue cannot be encoded: .*surrogate"),
        (TextValue("a", (2**32,)), "a TextValue cannot be encoded"),
        (VectorsValue(np.zeros(3, dtype=np.float32)), "a VectorsValue cannot be encoded"),
    ],
)
def test_what_has_no_wire_form_is_refused(datum: Datum, problem: str) -> None:
    with pytest.raises(GraphError, match=f"^{problem}"):
        encode_datum(datum)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (pb.Datum(), "a value must be one of 'text', 'json', 'vectors', 'kv', 'effect'"),
        (pb.Datum(json="{"), "json: not a JSON text: Expecting property name"),
        (pb.Datum(json="NaN"), "json: not a JSON text: NaN is not JSON"),
        (pb.Datum(json="[" * 100_000), "json: not a JSON text: nested too deep"),
        (pb.Datum(text=pb.TextDatum(ids=b"123")), "text.ids: 3 bytes are no sequence of 4-byte token ids"),
        (
            pb.Datum(text=pb.TextDatum(text="ab", covered=3)),
            "text.covered: 3 exceeds the text's 2 characters",
        ),
        (
            pb.Datum(vectors=pb.VectorsDatum(data=b"1234", rows=1, columns=2)),
            "vectors: 4 bytes are no float32 matrix of 1 x 2",
        ),
        (
            pb.Datum(kv=pb.KvDatum(key="r/%1", segments=[pb.Segment(strip="all")])),
            "kv.segments[0].strip: must be one of '', 'left', 'right', 'both', 'escaped', not 'all'",
        ),
        (
            pb.Datum(kv=pb.KvDatum(segments=[pb.Segment(text=pb.TextDatum(ids=b"1"))])),
            "kv.segments[0].text.ids: 1 bytes",
        ),
    ],
)
def test_malformed_values_say_where_and_what(message: pb.Datum, problem: str) -> None:
    with pytest.raises(GraphError) as raised:
        decode_datum(message)
    assert str(raised.value).startswith(problem)
