"""Completions as graphs: every prompt is read once, and each of its samples is a generation of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.user import Generate, Probe
from weft.graph.sampling import Constraint, Sampling

from .bodies import GenerationBody
from .errors import ApiError
from .prompts import Prompt

__all__ = ["Generation", "generation", "sampling_of"]

_MOST: Final = 1024  # texts


@dataclass(frozen=True)
class Generation:
    """A graph whose outputs are the texts of all samples, then their tokens if these were asked for.

    Last come the tokens of the prompts, if they are to be echoed.
    """

    graph: Graph
    inputs: dict[str, str]
    samples: tuple[tuple[Value, ...], ...]
    """The texts, those of one prompt together."""
    echo: bool = False

    @property
    def texts(self) -> list[Value]:
        """The texts in order."""
        return [text for group in self.samples for text in group]


def sampling_of(body: GenerationBody, max_tokens: int) -> Sampling:
    """How the answers to a prompt are drawn; without a seed, differently each time."""
    seed = random.getrandbits(63) if body.seed is None else body.seed
    top_k = max(body.top_k, 0)  # others write -1 for "all"
    return Sampling(max_tokens, body.temperature, body.top_p, top_k, seed, tuple(body.stop), body.ignore_eos)


def generation(
    name: str,
    model: str,
    prompts: Sequence[tuple[Prompt, Sampling]],
    *,
    n: int = 1,
    constraint: Constraint | None = None,
    logprobs: int | None = None,
    echo: bool = False,
) -> Generation:
    """`n` samples for each prompt, each drawn as it says; `name` is what observers call the run.

    Raises ApiError for too many, and for a constrained text that is not to end with its form.
    """
    if constraint is not None and any(sampling.ignore_eos for _, sampling in prompts):
        raise ApiError(
            400,
            "'ignore_eos' does not go with a constrained answer, which ends with its form",
            param="ignore_eos",
        )
    if n * len(prompts) > _MOST:
        raise ApiError(
            400, f"{n * len(prompts)} texts are too many for one request; ask for {_MOST} at most", param="n"
        )
    nodes: list[Node] = []
    inputs: dict[str, str] = {}
    samples: list[tuple[Value, ...]] = []
    echoed: list[Value] = []
    for number, (prompt, sampling) in enumerate(prompts):
        args: dict[str, Value] = {}
        for slot, text in prompt.slots.items():
            inputs[f"{slot}_of_{number}"] = text
            args[slot] = Value(len(nodes))
            nodes.append(Node(len(nodes), Input(f"{slot}_of_{number}")))
        group = []
        for sample in range(n):
            op = Generate(
                prompt.messages,
                sampling=sampling.of_sample(sample),
                constraint=constraint,
                model=model,
                logprobs=logprobs,
                ids=prompt.ids,
            )
            group.append(Value(len(nodes)))
            nodes.append(Node(len(nodes), op, args))
        samples.append(tuple(group))
        if echo:
            echoed.append(Value(len(nodes), 1))
            probe = Probe(prompt.messages, prompt.ids, start=0, top=logprobs or 0, model=model)
            nodes.append(Node(len(nodes), probe, args))
    texts = [text for group in samples for text in group]
    tokens = [Value(text.node, 2) for text in texts] if logprobs is not None else []
    return Generation(Graph(tuple(nodes), (*texts, *tokens, *echoed), name), inputs, tuple(samples), echo)
