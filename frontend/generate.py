"""`gen` and `select`: what a language model writes, and what it finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_args, overload

from weft.graph.ir import Policy, Value
from weft.graph.ops.user import Generate, ScoreMethod, Select
from weft.graph.sampling import Sampling
from weft.graph.types import TEXT

from .constraint import Wanted, check_choices, wanted
from .errors import TraceError
from .faking import faked
from .location import located
from .messages import Prompt, messages_of, turns_of
from .policy import RetryPolicy, Timeout, node_policy
from .pytypes import py_type
from .trace import current
from .var import Var

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["CallOptions", "TurnOptions", "gen", "select", "text_of"]

C = TypeVar("C", bound=str)
T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """The options of `Context.turn`; `gen` says what each means."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: str | Sequence[str]
    ignore_eos: bool
    seed: int | None
    model: str
    cache: bool
    name: str
    timeout: Timeout
    retry: RetryPolicy | None


class TurnOptions(CallOptions, total=False):
    """The options of `Context.gen`."""

    regex: str | None
    choices: Sequence[str] | None


class _GenOptions(TurnOptions, total=False):
    system: str | None
    raw: bool


@overload
def gen(prompt: Prompt, *, n: None = None, **options: Unpack[_GenOptions]) -> Var[str]: ...
@overload
def gen(prompt: Prompt, *, n: int, **options: Unpack[_GenOptions]) -> Var[list[str]]: ...
@overload
def gen(prompt: Prompt, *, type: type[T], n: None = None, **options: Unpack[_GenOptions]) -> Var[T]: ...
@overload
def gen(prompt: Prompt, *, type: type[T], n: int, **options: Unpack[_GenOptions]) -> Var[list[T]]: ...
@overload
def gen(prompt: Prompt, *, type: TypeForm[T], n: None = None, **options: Unpack[_GenOptions]) -> Var[T]: ...
@overload
def gen(prompt: Prompt, *, type: Any, n: int | None = None, **options: Unpack[_GenOptions]) -> Var[Any]: ...


def gen(
    prompt: Prompt,
    *,
    type: Any = str,
    system: str | None = None,
    raw: bool = False,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    regex: str | None = None,
    choices: Sequence[str] | None = None,
    n: int | None = None,
    seed: int | None = None,
    model: str = "",
    cache: bool = False,
    name: str = "",
    timeout: Timeout = None,
    retry: RetryPolicy | None = None,
) -> Var[Any]:
    """Let a language model write.

    Args:
        prompt: One message of the user, or a `Context`. The model's chat template renders it.
        type: What is wanted: str, int, float, bool, a Literal, an Enum, a list, a dict, a dataclass, a
            TypedDict or a pydantic model. The model can write nothing else, and the value arrives typed.
        system: The system message that goes before a text prompt.
        raw: Send a text prompt as it is, past the chat template; special tokens may be spelled in it.
        max_tokens: The most tokens to write.
        temperature: 0 is greedy, and therefore reproducible.
        top_p: Draw from the likeliest tokens that hold this much of the probability.
        top_k: Draw from so many of the likeliest tokens; 0 is all of them.
        stop: Texts that end the writing; they are not part of the result.
        ignore_eos: Write on where the model would end, up to `max_tokens`; for plain text only.
        regex: A regular expression that the whole text matches.
        choices: The texts to write one of; `select` compares their likelihoods instead.
        n: So many samples, as a list; one sample, and no list, if it is not given.
        seed: Equal seeds draw equal texts. Without one, every run of a program draws a new seed.
        model: The name of a model of the server; its default model if empty.
        cache: Later runs may take the same text for the same prompt; only where the temperature is 0.
        name: What errors, traces, graphs and events call this operation; `events` of the program has what a
            named one writes.
        timeout: Seconds, or a `TimeoutPolicy`, for one attempt.
        retry: How often to try again.

    Raises TraceError for arguments that are wrong or contradict one another.
    """
    trace = current("gen()")
    if n is not None:
        _expect("n", n, Integral)
    want = type if isinstance(type, Wanted) else wanted(type, regex, choices)
    sampling = _sampling(max_tokens, temperature, top_p, top_k, seed, stop, ignore_eos)
    if ignore_eos and want.constraint is not None:
        raise TraceError(
            located("ignore_eos goes with plain text: a typed or constrained text ends with its form")
        )
    turns, policy = turns_of(prompt, system, raw), _policy(timeout, retry)
    messages, args = messages_of(turns, trace)
    op = Generate(messages, want.kind, sampling, want.constraint, 1 if n is None else n, model, cache=cache)
    if (fake := faked()) is not None:
        pure = temperature == 0
        samples = [fake.write(trace, turns, want, name, model, policy, pure=pure) for _ in range(op.n)]
        return samples[0] if n is None else trace.var(trace.lift(samples), want.pytype.list_of())
    if seed is None and temperature > 0:
        trace.unseeded.append(op)
    value = trace.add(op, args, name=name, policy=policy)
    if op.n == 1:
        written = trace.var(value, want.pytype)
        return written if n is None else trace.var(trace.lift([written]), want.pytype.list_of())
    return trace.var(value, want.pytype.list_of())


def text_of(written: Var[Any]) -> Var[str]:
    """What `gen` gave as the model wrote it."""
    if (fake := faked()) is not None:
        return fake.written(written)
    return written._trace.var(Value(written._value.node, 1), py_type(str))


def select(
    prompt: Prompt,
    choices: Sequence[C],
    *,
    method: ScoreMethod = "mean",
    system: str | None = None,
    raw: bool = False,
    model: str = "",
    cache: bool = False,
    name: str = "",
    timeout: Timeout = None,
    retry: RetryPolicy | None = None,
) -> Var[C]:
    """The one of `choices`, texts or members of an enum of texts, that the model finds likeliest.

    `method` says how choices are compared: by the mean log-probability of their tokens (`mean`), token by
    token (`greedy`), or by how much likelier the prompt makes them (`unconditional`). `cache`: later runs may
    take the same choice for the same prompt. Raises TraceError.
    """
    trace = current("select()")
    options = check_choices(choices)
    if method not in get_args(ScoreMethod):
        known = ", ".join(map(repr, get_args(ScoreMethod)))
        raise TraceError(located(f"unknown method {method!r} of select(); known: {known}"))
    turns, policy = turns_of(prompt, system, raw), _policy(timeout, retry)
    messages, args = messages_of(turns, trace)
    op = Select(messages, options, method, model, cache=cache)
    kind, *others = set(map(type, choices))
    pytype = py_type(Literal[options] if kind is str or others else kind)
    if (fake := faked()) is not None:
        return fake.write(trace, turns, Wanted(TEXT, pytype), name, model, policy, pure=True)
    return trace.var(trace.add(op, args, name=name, policy=policy), pytype)


def _sampling(
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    stop: str | Sequence[str],
    ignore_eos: bool,
) -> Sampling:
    for name, value, kind in (
        ("max_tokens", max_tokens, Integral),
        ("temperature", temperature, Real),
        ("top_p", top_p, Real),
        ("top_k", top_k, Integral),
        ("seed", 0 if seed is None else seed, Integral),
    ):
        _expect(name, value, kind)
    if not isinstance(stop, Sequence) or not all(isinstance(text, str) for text in stop):
        raise TraceError(located(f"stop of gen() must be a text or a list of texts, not {stop!r}"))
    if seed is not None and not 0 <= seed < 2**63:
        raise TraceError(located(f"seed must lie in [0, 2**63), not {seed!r}"))
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    try:
        return Sampling(max_tokens, temperature, top_p, top_k, seed or 0, stops, ignore_eos)
    except ValueError as problem:
        raise TraceError(located(f"gen(): {problem}")) from None


def _expect(name: str, value: object, kind: type[Integral | Real]) -> None:
    """Raises TraceError, naming the argument, unless it is such a number, known now."""
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "a whole number" if kind is Integral else "a number"
        if isinstance(value, Var):
            wanted += " that is known now; annotate the parameter Static[...], or use an async program"
            raise TraceError(located(f"{name} of gen() must be {wanted}"))
        raise TraceError(located(f"{name} of gen() must be {wanted}, not {value!r}"))


def _policy(timeout: Timeout, retry: RetryPolicy | None) -> Policy:
    try:
        return node_policy(timeout, retry)
    except ValueError as problem:
        raise TraceError(located(str(problem))) from None
