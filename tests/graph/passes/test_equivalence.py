"""Every optional pass preserves the outputs: with and without it, a run gives the same values.

The runs are interpreted with a model that is a pure function of what it has read, so that any change of a
prompt, of an operand or of an order shows in the outputs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.deployment import Deployment
from weft.graph.ir import Graph
from weft.graph.live import LiveGraph
from weft.graph.passes import GUESS, OPTIONAL

from .conftest import DEPLOYMENT, Interpreter, programs

ALONE = [[other for other in OPTIONAL if other != name] for name in OPTIONAL]
"""What is switched off so that one pass runs alone."""


@settings(max_examples=300, deadline=None)
@given(programs(), st.sampled_from(["", "x"]), st.sampled_from(["", "x"]), st.integers(0, 99))
def test_passes_together_and_alone_preserve_the_outputs(graph: Graph, p: str, q: str, seed: int) -> None:
    inputs = {"p": p, "q": q}
    plain = Interpreter(graph, inputs, OPTIONAL)
    expected = plain.run()
    for disabled in ([], [GUESS], *ALONE):
        optimized = Interpreter(graph, inputs, disabled, seed)
        assert optimized.run() == expected
        assert GUESS not in disabled or optimized.engines.decodes <= plain.engines.decodes
        assert optimized.engines.stored == plain.engines.stored


def measured(step_ms: float, processor: str) -> Deployment:
    """The deployment of these tests with measured models, and retrieval on the cores of the host."""
    costs = ModelCosts(
        tuple(PrefillPoint(0, n, step_ms + 0.1 * n) for n in (16, 256)),
        tuple(DecodePoint(b, c, step_ms + 0.1 * b) for b in (1, 4) for c in (64, 1024)),
    )
    models = {
        name: replace(spec, costs=costs, processor=processor) for name, spec in DEPLOYMENT.models.items()
    }
    return replace(DEPLOYMENT, models=models, processors={"embed": "cores", "index": "cores"})


@settings(max_examples=100, deadline=None)
@given(programs(), st.sampled_from([0.01, 6.0]), st.sampled_from(["cores", "gpu"]), st.integers(0, 99))
def test_whatever_the_gates_let_through_preserves_the_outputs(
    graph: Graph, step_ms: float, processor: str, seed: int
) -> None:
    inputs = {"p": "x", "q": ""}
    expected = Interpreter(graph, inputs, OPTIONAL).run()
    deployment = measured(step_ms, processor)
    assert Interpreter(graph, inputs, [], seed, deployment=deployment).run() == expected


def test_a_pass_that_does_not_exist_cannot_be_switched_off() -> None:
    with pytest.raises(ValueError, match="no optional pass 'prunes'; known: pipeline_decode, split_prefill"):
        LiveGraph(DEPLOYMENT, disabled=["prunes"])
