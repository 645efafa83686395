"""What a server writes, as it comes: text without stop strings, token ids, and what it says of both."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex
from weft.graph.schema import check, loads
from weft.graph.values import TextValue
from weft.runtime.llm.detokenize import StopScan
from weft.runtime.llm.requests import Delta, Event, Likeliest, Weighed
from weft.runtime.llm.tokenizer import Tokenizer

from ...faults import TaskError
from ..base import Emit, Stream
from ..deltas import Sift
from .client import Completion

__all__ = ["Answer", "Usage", "expect_form", "likeliest"]

_NAMED: Final = "token_id:"


class Usage:
    """The tokens of a request, as far as its server counts them."""

    def __init__(self, prompt: int) -> None:
        """`prompt`: the tokens that were sent."""
        self.prompt = prompt
        self.cached = 0
        self.written: int | None = None

    def take(self, completion: Completion) -> None:
        """Take what a completion says, if it says anything."""
        found = completion.get("usage")
        if not isinstance(found, Mapping):
            return
        self.written = found.get("completion_tokens", self.written)
        details = found.get("prompt_tokens_details")
        if isinstance(details, Mapping):
            self.cached = min(details.get("cached_tokens") or 0, self.prompt)


class Answer:
    """Collects one completion, whole or by its events, and passes on what is wanted of its text."""

    def __init__(self, prompt: int, stop: tuple[str, ...], stream: Stream, emit: Emit) -> None:
        """`prompt`: how many tokens it has. `emit` gets "" when it has been read, and then text."""
        self.usage = Usage(prompt)
        self.text = ""
        self.first_at: float | None = None
        """When the first event came, on the monotonic clock."""
        self._finish = ""
        self._ids: list[int] = []
        self._logprobs: list[tuple[float, Mapping[str, float]]] = []
        self._scan = StopScan(stop)
        self._sift = Sift(stream, self._post)
        self._emit = emit

    def take(self, completion: Completion) -> None:
        """Take the next event."""
        if self.first_at is None:
            self.first_at = time.monotonic()
            self._emit("")
        self.usage.take(completion)
        for choice in completion.get("choices") or ():
            ids = choice.get("token_ids") or ()
            self._ids += ids
            self._finish = choice.get("finish_reason") or self._finish
            weighed = choice.get("logprobs")
            if weighed:
                values = weighed.get("token_logprobs") or []
                self._logprobs += zip(values, weighed.get("top_logprobs") or [{}] * len(values), strict=True)
            self._show(self._scan.push(choice.get("text") or ""), tuple(ids))

    def finish(self) -> Literal["stop", "length"]:
        """Note that all has come; why the text ended. Raises TaskError if its end is none."""
        self._show(self._scan.held, ())
        if self._scan.stopped:
            return "stop"
        if self._finish not in ("stop", "length"):
            why = f"with {self._finish!r}" if self._finish else "without saying why"
            raise TaskError("internal", f"the server ended its answer {why}", retryable=True)
        return "stop" if self._finish == "stop" else "length"

    def written(self, tokenizer: Tokenizer) -> TextValue:
        """The text, with those of its first tokens that are known and spell a beginning of it."""
        count, covered = _spelled(self._ids, self.text, tokenizer)
        ids = tuple(self._ids[:count])
        return TextValue(self.text, ids, tokenizer.fingerprint if ids else "", covered)

    @property
    def generated(self) -> int:
        """How many tokens it has, ends of sequence included; 0 if its server does not tell."""
        return self.usage.written if self.usage.written is not None else len(self._ids)

    def weighed(self, count: int, top: int) -> tuple[Weighed, ...]:
        """The first tokens with their log-probabilities. Raises TaskError if these have not come."""
        if len(self._logprobs) != len(self._ids):
            message = f"{len(self._ids)} tokens came with {len(self._logprobs)} log-probabilities"
            raise TaskError("internal", f"the server's answer does not fit itself: {message}")
        tokens = zip(self._ids[:count], self._logprobs[:count], strict=True)
        return tuple(Weighed(token, value, likeliest(rivals, top)) for token, (value, rivals) in tokens)

    def _show(self, text: str, ids: tuple[int, ...]) -> None:
        self.text += text
        self._sift([Delta(text, ids)])

    def _post(self, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event, Delta)
            self._emit(event.text)


def likeliest(rivals: Mapping[str, float] | None, top: int) -> Likeliest:
    """The likeliest of tokens that are named by their ids; servers add the token that stands there."""
    if not top or not rivals:
        return ()
    ranked = sorted(rivals.items(), key=lambda rival: -rival[1])[:top]
    return tuple((int(name.removeprefix(_NAMED)), value) for name, value in ranked)


def expect_form(text: str, constraint: Constraint, finish: str) -> None:
    """Refuse a text that does not conform to what it was asked to. Raises TaskError."""
    problem = _deviation(text, constraint)
    if problem:
        remedy = (
            "its tokens were used up: raise max_tokens"
            if finish == "length"
            else "the server has not held it to its form: docs/upstream.md says which servers of which "
            "version do, and what 'dialect' is for"
        )
        raise TaskError("invalid", f"the text is not what it was to be ({problem}); {remedy}")


def _deviation(text: str, constraint: Constraint) -> str:
    try:
        match constraint:
            case JsonSchema(schema):
                check(loads(text), schema, "it")
            case Regex(pattern):
                return "" if re.fullmatch(pattern, text) else f"it does not match {pattern!r}"
            case Choices(options):
                return "" if text in options else f"{text!r} is none of its choices"
    except (ValueError, re.error) as problem:
        return str(problem)
    return ""


def _spelled(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """How many of the ids spell a beginning of `text`, and how many characters of it; ends do not count."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found, length = (0, 0), 0
    for count, token in enumerate(ids, start=1):
        piece = decoder.decode(tokenizer.token_bytes(token))
        if not text.startswith(piece, length) or (token in tokenizer.eos_ids and length == len(text)):
            break
        length += len(piece)
        if not decoder.getstate()[0]:
            found = count, length
    return found
