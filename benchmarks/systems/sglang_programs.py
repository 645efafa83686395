"""SGLang's frontend: a program that forks its state for each call of the model and reads results when needed.

A fork works in a thread of its own, so what has been begun before the first result is read runs at the same
time; steps are therefore begun in the order of their depth. It speaks to the server as to SGLang's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from plans.language import Ask, Branch, Compute, Each, Plan, Step, Values, filled, found, reads
from pydantic import TypeAdapter

from weft.runtime.config import REFERENCE_MODEL

from . import sglang_frontend
from .calls import Calls, Door, Run, item_values, prepared

__all__ = ["SGLANG", "Endpoint", "Program", "runner"]

SGLANG: Final = sglang_frontend.load()
_sgl: Final = SGLANG.api
_RuntimeEndpoint: Any = SGLANG.runtime_endpoint.RuntimeEndpoint
_ChatTemplate: Any = SGLANG.chat_template.ChatTemplate
_ROLES: Final = {"system": _sgl.system, "user": _sgl.user, "assistant": _sgl.assistant}

_Wait = Callable[[], Any]
"""Gives the result of a step that has been begun."""


def runner(plan: Plan, calls: Calls) -> Run:
    """The plan as a program of the server behind `calls`."""
    assert isinstance(calls, Door)
    return Program(plan, calls, Endpoint(calls), forced=calls.forced).ainvoke


class Program:
    """A plan in SGLang's language. `calls`: its tools and its index; `backend`: its model."""

    def __init__(self, plan: Plan, calls: Calls, backend: Any, *, forced: bool = False) -> None:
        self._plan = plan
        self._calls = calls
        self._backend = backend
        self._forced = forced
        bodies = {step.name: _body(step) for step in plan.steps}
        self._bodies = {name: Program(b, calls, backend, forced=forced) for name, b in bodies.items() if b}
        depths = _depths(plan)
        self._steps = sorted(plan.steps, key=lambda step: (depths[step.name], self._blocks(step)))

        def function(s: Any, inputs: Values, loop: asyncio.AbstractEventLoop) -> Any:
            return self._written(s, inputs, loop)

        self._function = _sgl.function(function)

    async def ainvoke(self, inputs: Values) -> Any:
        """The result. Programs of SGLang are synchronous, so it runs in a thread."""
        return await asyncio.to_thread(self._run, inputs, asyncio.get_running_loop())

    def _run(self, inputs: Values, loop: asyncio.AbstractEventLoop) -> Any:
        return self._function.run(inputs=inputs, loop=loop, backend=self._backend).ret_value

    def _written(self, s: Any, inputs: Values, loop: asyncio.AbstractEventLoop) -> Any:
        """What stands in the program: `s` is its state, `loop` where its tools run."""
        values = dict(inputs)
        begun: dict[str, _Wait] = {}
        for step in self._steps:
            for name in sorted(reads(step) & begun.keys()):
                values[name] = begun.pop(name)()
            begun[step.name] = self._begin(s, step, values, loop)
        return self._plan.value(values | {name: wait() for name, wait in begun.items()})

    def _begin(self, s: Any, step: Step, values: Values, loop: asyncio.AbstractEventLoop) -> _Wait:
        match step:
            case Ask():
                return self._ask(s.fork(1)[0], step, values)
            case Compute():
                result = step.function(*(found(taken, values) for taken in step.takes))
                return lambda: result
            case Branch():
                if found(step.text, values) == step.equals:
                    result = found(step.then, values)
                else:
                    taken = {name: values[name] for name in step.otherwise.inputs}
                    result = self._bodies[step.name]._run(taken, loop)
                return lambda: result
            case Each():
                return self._each(s, step, values, loop)
            case _:
                done = prepared(step, self._calls, _no_runner)
                return asyncio.run_coroutine_threadsafe(done(values), loop).result

    def _ask(self, state: Any, ask: Ask, values: Values) -> _Wait:
        """A conversation in a fork."""
        for role, text in ask.messages:
            state += _ROLES[role](filled(text, values))
        options: dict[str, Any] = ask.ends(self._forced)
        if ask.form is not str:
            options["json_schema"] = json.dumps(TypeAdapter(ask.form).json_schema())
        state += _sgl.assistant(_sgl.gen(ask.name, max_tokens=ask.tokens, temperature=0, **options))

        def wait() -> Any:
            if (error := state.error()) is not None:
                raise error
            text = state[ask.name]
            return text if ask.form is str else TypeAdapter(ask.form).validate_json(text)

        return wait

    def _each(self, s: Any, each: Each, values: Values, loop: asyncio.AbstractEventLoop) -> _Wait:
        """A fork for every item, or a batch of programs if there is more than one step to do."""
        body, items = self._bodies[each.name], item_values(each, values)
        if self._blocks(each):
            calls = [{"inputs": item, "loop": loop} for item in items]
            states = body._function.run_batch(calls, backend=self._backend) if calls else []
            return lambda: [state.ret_value for state in states]
        (step,) = each.body.steps
        waits = [body._begin(s, step, item, loop) for item in items]
        return lambda: [
            each.body.value({**item, step.name: wait()}) for item, wait in zip(items, waits, strict=True)
        ]

    def _blocks(self, step: Step) -> bool:
        """Whether beginning it takes until it is done."""
        match step:
            case Each():
                return len(step.body.steps) != 1 or any(map(self._bodies[step.name]._blocks, step.body.steps))
            case _:
                return isinstance(step, Branch)


class Endpoint(_RuntimeEndpoint):
    """SGLang's client for its own server, with the salt of a `Door`."""

    def __init__(self, door: Door) -> None:
        super().__init__(door.url.removesuffix("/v1"))
        self._salt = door.salt

    def _add_images(self, s: Any, data: dict[str, Any]) -> None:
        """Every request passes here."""
        super()._add_images(s, data)
        data["extra_key"] = self._salt


class _ReferenceTemplate(_ChatTemplate):
    """How the reference model's conversations are written, in SGLang's terms."""

    def __init__(self) -> None:
        roles = {role: (f"<|{role}|>", "<|end|>") for role in _ROLES}
        super().__init__("weft-reference", None, roles)

    def get_prefix_and_suffix(self, role: str, hist_messages: list[Any]) -> tuple[str, str]:
        """What stands around a message after these."""
        prefix, suffix = super().get_prefix_and_suffix(role, hist_messages)
        return (prefix if hist_messages else f"<|bos|>{prefix}"), suffix


def _template_of(model: str) -> str | None:
    """The name of the template of a model in this folder, if it is the reference model's."""
    here, reference = (folder / "tokenizer_config.json" for folder in (Path(model), REFERENCE_MODEL))
    if here.is_file() and _template(here) == _template(reference):
        return "weft-reference"
    return None


def _template(config: Path) -> Any:
    return json.loads(config.read_text(encoding="utf-8")).get("chat_template")


SGLANG.chat_template.register_chat_template(_ReferenceTemplate())
SGLANG.chat_template.register_chat_template_matching_function(_template_of)


def _depths(plan: Plan) -> dict[str, int]:
    """For each step the number of steps on the longest way to it."""
    depths: dict[str, int] = {}
    for step in plan.steps:
        depths[step.name] = 1 + max((depths.get(name, 0) for name in reads(step)), default=0)
    return depths


def _body(step: Step) -> Plan | None:
    match step:
        case Each():
            return step.body
        case Branch():
            return step.otherwise
        case _:
            return None


def _no_runner(plan: Plan, calls: Calls) -> Run:
    raise TypeError(f"{plan} is not run as one step")
