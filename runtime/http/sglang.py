"""What SGLang's frontend calls: `GET /get_model_info`, `POST /generate`, `/flush_cache`.

Lists of input tokens are as the frontend's `select` reads them: from `logprob_start_len` = 0 they begin with
the first token, whose log-probability is null; from a later start, with the token after it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.user import Probe
from weft.graph.sampling import Constraint, JsonSchema, Regex, Sampling
from weft.graph.values import Datum, plain
from weft.runtime.orchestrator.orchestrator import Orchestrator

from .answers import Tokens
from .calls import Call, start, text_of
from .errors import ApiError
from .fields import Body, Unsupported, read_body
from .generation import Generation, generation
from .incoming import in_turn, orchestrator_of, parsed, read
from .prompts import Prompt
from .responses import DONE, EventStream, event, while_connected

__all__ = ["flush_cache", "generate", "model_info"]

_IGNORED: Final = frozenset({"log_metrics", "rid"})
_SAMPLING_IGNORED: Final = frozenset({"spaces_between_special_tokens"})
_OFF: Final = "weft does not offer it; leave it out"
_SAMPLING_UNSUPPORTED: Final = {
    "ebnf": Unsupported("pass `regex` or `json_schema`", ("",)),
    "frequency_penalty": Unsupported(_OFF, (0,)),
    "logit_bias": Unsupported(_OFF, ({},)),
    "min_new_tokens": Unsupported("for an exact length pass `ignore_eos` and `max_new_tokens`", (0,)),
    "min_p": Unsupported(_OFF, (0,)),
    "no_stop_trim": Unsupported(_OFF, (False,)),
    "presence_penalty": Unsupported(_OFF, (0,)),
    "repetition_penalty": Unsupported(_OFF, (1,)),
    "skip_special_tokens": Unsupported("special tokens are never part of a text; leave it out", (True,)),
    "stop_regex": Unsupported("pass `stop`", ([], "")),
    "stop_token_ids": Unsupported("pass `stop`", ([],)),
}
_GREEDY_BELOW: Final = 1e-6


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _stops(value: Any) -> Any:
    return _texts(value) if value else []


def _ids(value: Any) -> Any:
    return [value] if isinstance(value, list) and value and isinstance(value[0], int) else value


_Stop = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]


class _SamplingBody(Body):
    max_new_tokens: int = Field(default=128, ge=0, lt=2**31)
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    n: int = Field(default=1, ge=1, le=128)
    stop: Annotated[list[_Stop], BeforeValidator(_stops)] = Field(default_factory=list)
    ignore_eos: bool = False
    sampling_seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    regex: str = ""
    json_schema: str = ""


class _GenerateBody(Body):
    text: Annotated[list[str] | None, BeforeValidator(_texts), Field(min_length=1)] = None
    input_ids: Annotated[list[_Ids] | None, BeforeValidator(_ids), Field(min_length=1)] = None
    sampling_params: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False
    return_logprob: bool = False
    logprob_start_len: int | None = Field(default=None, ge=-1, lt=2**31)
    top_logprobs_num: int = Field(default=0, ge=0, le=128)
    return_text_in_logprobs: bool = False
    extra_key: str = ""
    """Requests with different ones never share what the model has read."""


async def model_info(request: Request) -> Response:
    """The default model. Raises ApiError."""
    orchestrator = orchestrator_of(request)
    name = _default_model(orchestrator)
    paths = {model.name: model.path for model in orchestrator.settings.models}
    path = paths.get(name, name)
    return JSONResponse(
        {"model_path": path, "tokenizer_path": path, "served_model_name": name, "is_generation": True}
    )


async def flush_cache(request: Request) -> Response:
    """Have the models forget what they have read."""
    orchestrator_of(request).flush()
    return Response("Cache flushed.\n", media_type="text/plain")


async def generate(request: Request) -> Response:
    """Continue texts, or weigh their tokens. Raises ApiError."""
    raw = await read(request)
    async with in_turn(request):
        data = parsed(raw)
        batch = _started(orchestrator_of(request), read_body(_GenerateBody, data, ignored=_IGNORED))
    headers = {"x-request-id": batch.call.id}
    if batch.body.stream:
        return EventStream(_events(batch), batch.call.cancel, headers)
    outputs = await while_connected(request, batch.call.outputs(), batch.call.cancel)
    items = [batch.item(index, outputs) for index in range(batch.count)]
    single = batch.count == 1 and not _is_batch(data)
    return JSONResponse(items[0] if single else items, headers=headers)


def _is_batch(data: dict[str, Any]) -> bool:
    ids = data.get("input_ids")
    return isinstance(data.get("text"), list) or (isinstance(ids, list) and isinstance(ids[0], list))


def _started(orchestrator: Orchestrator, body: _GenerateBody) -> _Batch:
    """The run that answers a request. Raises ApiError."""
    sampling = read_body(
        _SamplingBody, body.sampling_params, ignored=_SAMPLING_IGNORED, unsupported=_SAMPLING_UNSUPPORTED
    )
    if (body.text is None) == (body.input_ids is None):
        raise ApiError(400, "pass either 'text' or 'input_ids'", param="text")
    model = _default_model(orchestrator)
    prompts = [Prompt.of(text) for text in body.text or ()]
    written = None
    if sampling.max_new_tokens:
        if body.input_ids is not None:
            message = "token ids can be weighed, not continued; send 'text', or 'max_new_tokens': 0"
            raise ApiError(400, message, param="input_ids")
        written = generation(
            "generate",
            model,
            [(prompt, _sampling(sampling)) for prompt in prompts],
            n=sampling.n,
            constraint=_constraint(sampling),
            logprobs=body.top_logprobs_num if body.return_logprob else None,
        )
    nodes, outputs = (written.graph.nodes, written.graph.outputs) if written else ((), ())
    probes = tuple(
        Node(number, op)
        for number, op in enumerate(_probes(body, model, prompts, writes=written is not None), len(nodes))
    )
    weighed = [Value(probe.id, output) for probe in probes for output in (0, 1)]
    graph = Graph((*nodes, *probes), (*outputs, *weighed), "generate")
    stream = written.texts if written and body.stream else ()
    call = start(orchestrator, graph, {}, stream=stream, namespace=body.extra_key)
    return _Batch(call, body, sampling, written, [Value(probe.id) for probe in probes])


def _probes(body: _GenerateBody, model: str, prompts: Sequence[Prompt], *, writes: bool) -> Iterator[Probe]:
    """What is to be read besides what is written on, one probe a prompt."""
    first, top = _first_weighed(body, writes=writes), body.top_logprobs_num
    if writes and first is None:
        return
    for prompt in prompts:
        yield Probe((prompt.message,), start=first, top=top, model=model)
    for ids in body.input_ids or ():
        yield Probe(ids=tuple(ids), start=first, top=top, model=model)


def _first_weighed(body: _GenerateBody, *, writes: bool) -> int | None:
    """The first token of the prompts to be weighed; None: none is."""
    if not body.return_logprob:
        return None
    begin = body.logprob_start_len
    if begin is None:
        begin = -1 if writes else 0
    return None if begin < 0 else begin + 1 if begin else 0


@dataclass(frozen=True)
class _Batch:
    """The run of a request, and where in its results everything is."""

    call: Call
    body: _GenerateBody
    sampling: _SamplingBody
    written: Generation | None
    probes: Sequence[Value]

    @property
    def count(self) -> int:
        """Items of the answer: the samples of each text."""
        return len(self.written.texts) if self.written else len(self.probes)

    def item(self, index: int, outputs: Sequence[Datum]) -> dict[str, Any]:
        """One item of the answer, once the run is over."""
        probe = index // self.sampling.n if self.written else index
        base = len(self.written.graph.outputs) if self.written else 0
        timing = self.call.timing(self.written.texts[index] if self.written else self.probes[index])
        meta: dict[str, Any] = {
            "id": f"{self.call.id}-{index}",
            "finish_reason": self._reason(timing.finish),
            "prompt_tokens": timing.prompt_tokens,
            "completion_tokens": timing.generated_tokens,
            "cached_tokens": timing.cached_tokens,
        }
        if self.body.return_logprob:
            read = plain(outputs[base + 2 * probe + 1]) if self.probes else []
            wrote = plain(outputs[len(self.written.texts) + index]) if self.written else []
            meta |= self._tokens("input", read) | self._tokens("output", wrote)
        return {"text": text_of(outputs[index]) if self.written else "", "meta_info": meta}

    def _reason(self, finish: str) -> dict[str, Any]:
        if finish == "stop":
            return {"type": "stop", "matched": None}
        return {"type": "length", "length": self.sampling.max_new_tokens}

    def _tokens(self, what: str, tokens: Tokens) -> dict[str, Any]:
        found: dict[str, Any] = {f"{what}_token_logprobs": [self._token(token) for token in tokens]}
        if self.body.top_logprobs_num:
            found[f"{what}_top_logprobs"] = [
                [self._token(rival) for rival in token["top"]] or None for token in tokens
            ]
        return found

    def _token(self, token: Mapping[str, Any]) -> list[Any]:
        return [token["logprob"], token["id"], token["text"] if self.body.return_text_in_logprobs else None]


async def _events(batch: _Batch) -> AsyncIterator[bytes]:
    """Each event holds all of the text so far."""
    texts = [""] * batch.count
    async for pieces in batch.call.pieces():
        for index, text in pieces:
            texts[index] += text
        changed = [index for index, text in pieces if text]
        if changed:
            yield b"".join(_event(batch, index, texts[index]) for index in changed)
    outputs = await batch.call.outputs()
    for index in range(batch.count):
        yield event({**batch.item(index, outputs), "index": index})
    yield DONE


def _event(batch: _Batch, index: int, text: str) -> bytes:
    meta = {"id": f"{batch.call.id}-{index}", "finish_reason": None}
    return event({"text": text, "meta_info": meta, "index": index})


def _sampling(body: _SamplingBody) -> Sampling:
    temperature = 0.0 if body.temperature < _GREEDY_BELOW else body.temperature
    seed = random.getrandbits(63) if body.sampling_seed is None else body.sampling_seed
    return Sampling(
        body.max_new_tokens,
        temperature,
        body.top_p,
        max(body.top_k, 0),
        seed,
        tuple(body.stop),
        body.ignore_eos,
    )


def _constraint(body: _SamplingBody) -> Constraint | None:
    if body.regex and body.json_schema:
        raise ApiError(400, "pass either 'regex' or 'json_schema'", param="regex")
    if body.regex:
        return Regex(body.regex)
    return JsonSchema(body.json_schema) if body.json_schema else None


def _default_model(orchestrator: Orchestrator) -> str:
    name = orchestrator.fleet.deployment.default_model
    if not name:
        raise ApiError(503, "no worker that runs a model is there; try again later")
    return name
