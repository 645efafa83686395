"""Chat templates between the wire and the passes."""

from __future__ import annotations

import pytest

from weft.graph.prompt import Fixed, Message, MessageCall, Slot
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.orchestrator.chat import TemplateRenderer

SOURCE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def renderer(source: str) -> TemplateRenderer:
    return TemplateRenderer(ChatTemplate("m", source).to_json())


def test_prompt_with_slots() -> None:
    messages = [Message("system", ("be brief",)), Message("user", ("Q: ", Slot("q")))]
    assert renderer(SOURCE).render(messages, add_generation_prompt=True) == (
        Fixed("<|system|>", trusted=True),
        Fixed("be brief"),
        Fixed("<|end|><|user|>", trusted=True),
        Fixed("Q: "),
        Slot("q", "right"),
        Fixed("<|end|><|assistant|>", trusted=True),
    )


def test_template_that_refuses_says_why() -> None:
    with pytest.raises(ValueError, match="only one message"):
        renderer("{{ raise_exception('only one message') }}").render(
            [Message("user", ("x",))], add_generation_prompt=True
        )


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Message("tools", ("{",)), "tools must be a list of functions"),
        (Message("tools", ('[{"name": "f"}]',)), "tools must be a list of functions"),
        (Message("tools", ("[" * 100_000,)), "tools must be a list of functions"),
        (
            Message("tools", ('[{"type": "function", "function": {"name": "\\ud800"}}]',)),
            "tools must be a list",
        ),
        (Message("assistant", (), (MessageCall("c", "f", "[]"),)), "the JSON text of an object"),
        (Message("assistant", (), (MessageCall("c", "f", '{"a": NaN}'),)), "the JSON text of an object"),
    ],
)
def test_malformed_tools_and_calls(message: Message, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        renderer(SOURCE).render([message, Message("user", ("x",))], add_generation_prompt=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"colour": "red"}'])
def test_malformed_template(text: str) -> None:
    with pytest.raises(ValueError, match="malformed chat template"):
        TemplateRenderer(text)
