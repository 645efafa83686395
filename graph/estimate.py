"""How long a primitive is expected to take, alone on an idle engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from .analyses.depth import remaining_ms
from .costs import CHARS_PER_TOKEN, DEFAULT_COSTS, ModelCosts
from .deployment import Deployment
from .ir import Node
from .observed import Observed, duration_key, length_key
from .ops.common import Const, Input
from .ops.control import Map
from .ops.primitive import Decode, Prefill, Rate, Score, Weigh
from .ops.user import Generate
from .prompt import Fixed
from .sampling import Sampling
from .sketch import RELATIVE_ERROR

__all__ = ["Estimator", "Generation"]

_HOST_MS: Final = 0.05
_CONTROL_MS: Final = 0.1
_DEFAULT_MS: Final = {"embed": 3.0, "index": 5.0, "rerank": 50.0, "tool": 100.0}
_SLOT_TOKENS: Final = 64.0  # of a value that nobody has seen yet
_CONTEXT_TOKENS: Final = 256.0  # behind which a decode is taken to write
_RATED_TOKENS: Final = 1024.0  # of passages that nobody has seen yet
_MOST_EXPECTED: Final = 64  # tokens of a decode that nobody has seen yet


class Generation(NamedTuple):
    """Milliseconds."""

    read_ms: float  # beside others that are read in the same step
    write_ms: float  # alone on an idle engine
    beside_ms: float  # that another text takes longer for being written beside it


class Estimator:
    """Predictions from the measured profiles of a deployment and from what earlier runs took."""

    def __init__(self, deployment: Deployment, observed: Observed) -> None:
        self.deployment = deployment
        self.observed = observed

    def duration_ms(self, node: Node) -> float:
        """The milliseconds of a node."""
        match node.op:
            case Prefill(model=model):
                return self.costs(model).prefill_ms(0, self.tokens(node))
            case Decode(model=model):
                return self.length(node) * self.costs(model).decode_ms(1, _CONTEXT_TOKENS)
            case Score(model=model) | Weigh(model=model):
                return self.costs(model).prefill_ms(_CONTEXT_TOKENS, self.options(node))
            case Rate(model=model):
                seen = self.observed.quantile(duration_key(node), 0.5)
                alone = self.costs(model).prefill_ms(0, _RATED_TOKENS)
                return alone if seen is None else seen
            case Generate(sampling=sampling):  # within a body, which is lowered once it runs
                costs, tokens = self.costs(self._model(node)), self.most_expected(sampling)
                return costs.prefill_ms(0, _SLOT_TOKENS) + tokens * costs.decode_ms(1, _CONTEXT_TOKENS)
            case Map(body=body):  # its bodies run side by side
                return max(remaining_ms(body, self.duration_ms).values(), default=0.0) + _CONTROL_MS
            case Input() | Const():
                return 0.0
        if node.op.kind == "host":
            return _HOST_MS
        if node.op.kind == "control":
            return _CONTROL_MS
        seen = self.observed.quantile(duration_key(node), 0.5)
        return _DEFAULT_MS.get(node.op.kind, 0.0) if seen is None else seen

    def spread_ms(self, node: Node) -> float:
        """How much longer than usual a node takes one time in ten: all of it where nobody has seen it yet."""
        usual, long = (self.observed.quantile(duration_key(node), q) for q in (0.5, 0.9))
        if usual is None or long is None:
            return self.duration_ms(node)
        return long - usual if long > usual * (1 + 3 * RELATIVE_ERROR) else 0.0

    def tokens(self, node: Node) -> float:
        """The tokens that a prefill reads."""
        assert isinstance(node.op, Prefill)
        pieces = node.op.pieces
        return sum(len(p.text) / CHARS_PER_TOKEN if isinstance(p, Fixed) else _SLOT_TOKENS for p in pieces)

    def generation(self, node: Node, read: float) -> Generation:
        """What it takes to write a text, in the user's dialect, after reading so many tokens."""
        assert isinstance(node.op, Generate)
        sampling, model = node.op.sampling, self._model(node)
        costs, tokens = self.costs(model), self.length(replace(node, op=Decode(model, sampling)))
        alone_ms, wider_ms = (tokens * costs.decode_ms(batch, _CONTEXT_TOKENS) for batch in (1, 2))
        return Generation(
            max(costs.prefill_ms(0, read) - costs.prefill_terms[0], 0.0), alone_ms, wider_ms - alone_ms
        )

    def options(self, node: Node) -> float:
        """The tokens of all choices that are scored, or of the text that is weighed."""
        if isinstance(node.op, Weigh):
            return max(1.0, len(node.op.ids))
        assert isinstance(node.op, Score)
        return max(1.0, sum(map(len, node.op.choices)) / CHARS_PER_TOKEN)

    def length(self, node: Node) -> float:
        """The tokens that a decode writes."""
        assert isinstance(node.op, Decode)
        seen = self.observed.quantile(length_key(node), 0.5)
        return self.most_expected(node.op.sampling) if seen is None else seen

    def most_expected(self, sampling: Sampling) -> float:
        """The tokens of a text of which nothing but its sampling is known."""
        return min(sampling.max_tokens, _MOST_EXPECTED)

    def _model(self, node: Node) -> str:
        return getattr(node.op, "model", "") or self.deployment.default_model

    def costs(self, model: str) -> ModelCosts:
        """What a model takes, as measured if it was."""
        spec = self.deployment.models.get(model)
        return spec.costs if spec is not None and spec.costs is not None else DEFAULT_COSTS
