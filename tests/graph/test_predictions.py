"""What predictions are made of: measured costs, sketches of what was seen, estimates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.estimate import Estimator
from weft.graph.ir import Node, Value
from weft.graph.observed import Observed, duration_key, length_key
from weft.graph.ops.common import Search
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed, Slot
from weft.graph.sampling import Sampling
from weft.graph.sketch import Quantiles

NEW = (16, 64, 256, 1024)


def costs() -> ModelCosts:
    """Of a model that takes 3 ms a call, 0.1 ms a token, and a little for what it attends to."""
    prefill = [PrefillPoint(c, n, 3 + 0.1 * n + 1e-5 * n * (c + n / 2)) for c in (0, 1024) for n in NEW]
    decode = [DecodePoint(b, c, 4 + 0.5 * b + 1e-4 * b * c) for b in (1, 4, 16) for c in (64, 1024)]
    return ModelCosts(tuple(prefill), tuple(decode))


def test_costs_follow_what_was_measured() -> None:
    assert costs().prefill_ms(512, 128) == pytest.approx(3 + 12.8 + 1e-5 * 128 * 576, rel=1e-3)
    assert costs().decode_ms(8, 512) == pytest.approx(4 + 4 + 1e-4 * 8 * 512, rel=1e-3)
    assert costs().prefill_ms(999, 0) == 0


@given(
    st.lists(st.tuples(st.sampled_from(NEW), st.floats(0.1, 1e4)), min_size=1, max_size=6),
    st.floats(0, 4096),
    st.floats(1, 4096),
    st.floats(0, 512),
)
def test_more_work_never_takes_less_time_whatever_was_measured(
    points: list[tuple[int, float]], cached: float, new: float, more: float
) -> None:
    noisy = ModelCosts(tuple(PrefillPoint(0, n, ms) for n, ms in points), (DecodePoint(1, 64, 5.0),))
    assert 0 <= noisy.prefill_ms(cached, new) <= noisy.prefill_ms(cached, new + more) + 1e-6
    assert noisy.prefill_ms(cached, new) <= noisy.prefill_ms(cached + more, new) + 1e-6


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_their_error(values: list[float], q: float) -> None:
    sketch = Quantiles()
    for value in values:
        sketch.add(value)
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    assert sketch.count == len(values)
    assert sketch.quantile(q) == pytest.approx(exact, rel=0.051, abs=2e-6)


def test_a_sketch_stays_small_and_keeps_its_upper_quantiles() -> None:
    sketch = Quantiles()
    for exponent in range(-600, 600):
        sketch.add(1.1**exponent)
    assert sketch.quantile(1) == pytest.approx(1.1**599, rel=0.06)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_sketch_refuses_what_is_no_amount(value: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        Quantiles().add(value)
    with pytest.raises(ValueError, match="no value"):
        Quantiles().quantile(0.5)


def test_the_epoch_rises_when_predictions_move_and_not_otherwise() -> None:
    observed = Observed()
    for _ in range(7):
        observed.add("a", 100)
    assert observed.epoch == 0
    observed.add("a", 100)
    assert observed.epoch == 1
    for _ in range(1000):
        observed.add("a", 101)
    assert observed.epoch == 1
    for _ in range(4000):
        observed.add("a", 900)
    assert observed.epoch == 2


def test_of_many_keys_those_used_last_are_kept() -> None:
    observed = Observed()
    for key in range(5000):
        observed.add(str(key), 1)
    assert observed.quantile("0", 0.5) is None
    assert observed.quantile("4999", 0.5) == pytest.approx(1, rel=0.06)


def test_estimates_come_from_profiles_and_from_what_was_seen() -> None:
    observed = Observed()
    estimator = Estimator(Deployment({"m": ModelSpec("m", 99, costs=costs())}, "m"), observed)
    decode = Node(1, Decode("m", Sampling(max_tokens=200)), {"kv": Value(0)}, location="a.py:1")
    search = Node(2, Search("docs"), {}, location="a.py:2")
    before = estimator.duration_ms(decode)
    observed.add(length_key(decode), 10)
    assert estimator.duration_ms(decode) == pytest.approx(before * 10 / 64, rel=0.06)
    observed.add(duration_key(search), 70)
    assert estimator.duration_ms(search) == pytest.approx(70, rel=0.06)
    prefill = Node(3, Prefill("m", (Fixed("x" * 400), Slot("s"))), {"s": Value(0)})
    assert estimator.tokens(prefill) == 164
    other = Node(9, decode.op, {"kv": Value(7)}, location="a.py:1")
    assert length_key(other) == length_key(decode)  # node ids differ from run to run
