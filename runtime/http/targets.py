"""What the name of a model stands for: a language model, an embedder, or a program of the server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from weft.graph.codec import from_json
from weft.graph.errors import GraphError
from weft.graph.ir import Graph
from weft.graph.ops.common import Input
from weft.graph.types import Text
from weft.proto import worker_pb2
from weft.runtime.orchestrator.door import DoorError, program_text
from weft.runtime.orchestrator.orchestrator import Orchestrator

from .bodies import GenerationBody
from .errors import ApiError

__all__ = [
    "LanguageModel",
    "Program",
    "check_for_model",
    "check_for_program",
    "model_cards",
    "target_of",
    "unknown_model",
]

_CONVERSATION: Final = "messages"  # the input of a program that takes all of it
_STARTED: Final = int(time.time())


@dataclass(frozen=True)
class LanguageModel:
    """A language model that a worker runs."""

    name: str
    info: worker_pb2.LlmInfo

    @property
    def room(self) -> int:
        """How many tokens an answer may have that nobody limits: what the context holds.

        Where the KV pool is smaller than a context, half of the pool, for the prompt needs room in it too. Of
        a model that another server runs, the pool is not known.
        """
        slots, context = self.info.kv_slots, self.info.context_length
        return max(slots // 2, 1) if 0 < slots < context else context


@dataclass(frozen=True)
class Program:
    """A registered program."""

    name: str
    graph: Graph

    def inputs(self, given: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The program's inputs: those that are `given` by name, and the conversation.

        An input called `messages` takes all of them, and the text of the last message of the user goes to
        the only text that is still wanted. Raises ApiError if there are several.
        """
        inputs = dict(given)
        open_inputs = [
            node.op for node in self.graph if isinstance(node.op, Input) and node.op.name not in given
        ]
        if any(op.name == _CONVERSATION and not isinstance(op.type, Text) for op in open_inputs):
            inputs[_CONVERSATION] = list(messages)
        texts = [op for op in open_inputs if isinstance(op.type, Text)]
        wanted = [op.name for op in texts if op.default is None] or [op.name for op in texts]
        if len(wanted) > 1:
            raise ApiError(
                400,
                f"program {self.name!r} takes several texts ({', '.join(wanted)}), and the last message is "
                "only one of them; pass all but one of them in 'inputs'",
                param="inputs",
            )
        said = [message["content"] for message in messages if message["role"] == "user"]
        if wanted and not said:
            raise ApiError(400, "there is no message of the user in 'messages'", param="messages")
        return inputs | ({wanted[0]: said[-1]} if wanted else {})


def target_of(orchestrator: Orchestrator, name: str) -> LanguageModel | Program:
    """The language model or the program of that name. Raises ApiError."""
    info = orchestrator.fleet.language_model(name)
    if info is not None:
        return LanguageModel(name, info)
    if name in orchestrator.settings.programs:
        return _program(orchestrator, name)
    if any(model.name == name for model in orchestrator.settings.models):
        raise ApiError(503, f"model {name!r} is not ready: no worker that runs it is there; try again later")
    known = [card["id"] for card in model_cards(orchestrator) if card["kind"] != "embedder"]
    raise unknown_model(name, known)


def unknown_model(name: str, known: list[str]) -> ApiError:
    """Nothing that could be asked this is called so."""
    names = ", ".join(map(repr, known)) or "none"
    return ApiError(
        404, f"there is no model {name!r}; there are: {names}", param="model", code="model_not_found"
    )


def model_cards(orchestrator: Orchestrator) -> list[dict[str, Any]]:
    """What `GET /v1/models` lists."""
    fleet = orchestrator.fleet.deployment
    cards: list[dict[str, Any]] = [
        {"kind": "model", "id": name, "max_model_len": spec.context_length}
        for name, spec in fleet.models.items()
    ]
    cards += [{"kind": "program", "id": name} for name in sorted(orchestrator.settings.programs)]
    if fleet.embedder:
        cards.append({"kind": "embedder", "id": fleet.embedder})
    return [{"object": "model", "created": _STARTED, "owned_by": "weft", **card} for card in cards]


def check_for_model(body: GenerationBody) -> None:
    """Refuse what only programs take. Raises ApiError."""
    if body.inputs:
        message = f"{body.model!r} is a model, and 'inputs' belong to programs; leave them out"
        raise ApiError(400, message, param="inputs")


def check_for_program(body: GenerationBody, passed: frozenset[str]) -> None:
    """Refuse what a program has decided for itself. Raises ApiError."""
    fields = type(body).model_fields
    own = [
        name
        for name in sorted(body.model_fields_set - passed)
        if getattr(body, name) != fields[name].get_default(call_default_factory=True)
    ]
    if own:
        name = own[0]
        raise ApiError(
            400,
            f"{name!r} cannot be set for program {body.model!r}: a program says itself how its models write; "
            "leave it out",
            param=name,
        )


def _program(orchestrator: Orchestrator, name: str) -> Program:
    try:
        text = program_text(name, orchestrator.settings.programs)
        graph = _parsed(text, orchestrator.max_bytes)
    except DoorError as problem:
        raise ApiError.refused(problem) from None
    except GraphError as problem:
        raise ApiError(500, f"program {name!r} cannot be run: {problem}") from None
    if len(graph.outputs) != 1:
        message = f"program {name!r} has {len(graph.outputs)} outputs; as a model it must have one"
        raise ApiError(500, message)
    return Program(name, graph)


@lru_cache(64)
def _parsed(text: str, max_characters: int) -> Graph:
    return from_json(text, max_characters=max_characters)
