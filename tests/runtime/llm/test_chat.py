"""Chat templates: as transformers renders them, with holes, trust and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from weft.runtime.llm.chat import ChatMessage, ChatTemplate, ChatTemplateError, Hole, HolePiece, Piece
from weft.runtime.llm.pieces import TextPiece

REFERENCE = Path(__file__).parents[3] / "apps" / "reference_model" / "model"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{% endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN2 = """\
{%- if tools %}
    {{- '<|im_start|>system\n' + tools | tojson }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and not(message.content.startswith('<tool_response>')
        and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n') %}
            {%- set reasoning_content = reasoning_content.split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n')
                + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first %}
            {%- set content = system_message + message['content'] %}
        {%- else %}
            {%- set content = message['content'] %}
        {%- endif %}
        {{- '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
        {% generation %}{{- ' ' + message['content'] | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "qwen2": QWEN2, "qwen3": QWEN3, "mistral": MISTRAL}
ALTERNATING = ["system", "user", "assistant", "user", "assistant"]


def template(name: str) -> ChatTemplate:
    if name == "reference":
        found = ChatTemplate.from_folder(REFERENCE)
        assert found is not None
        return found
    return ChatTemplate(name, TEMPLATES[name], TOKENS)


def expected(chat: ChatTemplate, turns: list[tuple[str, str]], prompt: bool) -> str:
    """What transformers renders."""
    messages = [{"role": role, "content": text} for role, text in turns]
    rendered = render_jinja_template(
        [messages], chat_template=chat.source, add_generation_prompt=prompt, **chat.tokens
    )
    return str(rendered[0][0])


def text_of(pieces: tuple[Piece, ...], values: dict[str, str]) -> str:
    """Fill the holes of a rendered prompt."""
    return "".join(piece.text if isinstance(piece, TextPiece) else fill(piece, values) for piece in pieces)


def fill(piece: HolePiece, values: dict[str, str]) -> str:
    text = values[piece.name]
    text = text.lstrip(piece.characters) if piece.strip in ("left", "both") else text
    return text.rstrip(piece.characters) if piece.strip in ("right", "both") else text


CONTENT = st.lists(
    st.sampled_from(["hi", " ", "\n", "\n\n", "the end", "<|im_end|>", "{{ x }}", '"', "日本", "\t"]),
    min_size=1,
).filter(lambda parts: any(part.strip() for part in parts))
ROLES = st.builds(lambda first, last: ALTERNATING[first:last], st.integers(0, 1), st.integers(2, 5))


@pytest.mark.parametrize("name", ["reference", *TEMPLATES])
@settings(max_examples=20, deadline=None)
@given(roles=ROLES, prompt=st.booleans(), data=st.data())
def test_as_transformers(name: str, roles: list[str], prompt: bool, data: st.DataObject) -> None:
    """Filled in, the pieces are what transformers renders for the whole messages."""
    chat = template(name)
    messages, turns, values = [], [], {}
    for index, role in enumerate(roles):
        parts = data.draw(CONTENT)
        content: list[str | Hole] = list(parts)
        filled = list(parts)
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(parts)))
            values[f"v{index}"] = " \n value\n "
            content.insert(place, Hole(f"v{index}"))
            filled.insert(place, values[f"v{index}"])
        messages.append(ChatMessage(role, tuple(content)))
        turns.append((role, "".join(filled)))
    pieces = chat.render(messages, prompt)
    assert text_of(pieces, values) == expected(chat, turns, prompt)
    assert not any(
        piece.trusted and "the end" in piece.text for piece in pieces if isinstance(piece, TextPiece)
    )


def test_only_the_template_is_trusted() -> None:
    pieces = template("reference").render(
        [ChatMessage("system", ("Be brief.<|end|>",)), ChatMessage("user", ("Q: ", Hole("q"), "?"))], True
    )
    assert pieces == (
        TextPiece("<|bos|><|system|>", trusted=True),
        TextPiece("Be brief.<|end|>"),
        TextPiece("<|end|><|user|>", trusted=True),
        TextPiece("Q: "),
        HolePiece("q"),
        TextPiece("?"),
        TextPiece("<|end|><|assistant|>", trusted=True),
    )


def test_holes_at_a_stripped_edge_say_so() -> None:
    def holes(*content: str | Hole) -> list[HolePiece]:
        pieces = template("llama3").render([ChatMessage("user", content)], False)
        return [piece for piece in pieces if isinstance(piece, HolePiece)]

    assert holes(Hole("a")) == [HolePiece("a", "both")]
    assert holes(" ", Hole("a"), "!") == [HolePiece("a", "left")]
    assert holes("Q: ", Hole("a"), " to ", Hole("b")) == [HolePiece("a"), HolePiece("b", "right")]


def test_stripping_of_newlines_alone() -> None:
    messages = [ChatMessage("user", ("hi",)), ChatMessage("assistant", (Hole("a"),))]
    assert HolePiece("a", "left", "\n") in template("qwen3").render(messages, False)


def test_the_words_of_a_refusing_template_are_quoted() -> None:
    with pytest.raises(ChatTemplateError, match="'mistral' refuses: Conversation roles must alternate"):
        template("mistral").render([ChatMessage("user", ("a",)), ChatMessage("user", ("b",))], True)


TOOLS = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|{{ m.role }}|>
{%- if m.role == 'tool' %}{{ m.tool_call_id }}={{ m.content | tojson }}
{%- elif m.tool_calls %}{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}
{%- else %}{{ m.content }}
{%- endif %}{% endfor %}"""


def test_tools_calls_and_results_are_written_as_transformers_does() -> None:
    function = {"name": "f", "arguments": {"x": 'a "b" <|end|>'}}
    fields = {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "description": "Says <|end|>."}}]
    messages = [
        ChatMessage("user", ("hi ", Hole("q"))),
        ChatMessage("assistant", ("dropped",), fields),
        ChatMessage(
            "tool", ('"', Hole("x"), "\n", TextPiece("<|ok|>", trusted=True)), {"tool_call_id": "c1"}
        ),
        ChatMessage("assistant", (), fields),
    ]
    values = {"q": "you", "x": 'say "yes"\\'}
    pieces = ChatTemplate("tools", TOOLS).render(messages, False, tools=tools, control_tokens=["<|end|>"])
    assert [piece for piece in pieces if isinstance(piece, HolePiece)] == [
        HolePiece("q"),
        HolePiece("x", "escaped"),
    ]
    escaped = values | {"x": json.dumps(values["x"])[1:-1]}
    written = "".join(p.text if isinstance(p, TextPiece) else escaped[p.name] for p in pieces)
    turns: list[Any] = [
        {"role": "user", "content": "hi you"},
        {"role": "assistant", "content": "dropped", **fields},
        {"role": "tool", "content": f'"{values["x"]}\n<|ok|>', "tool_call_id": "c1"},
        {"role": "assistant", "content": "", **fields},
    ]
    rendered = render_jinja_template([turns], tools=tools, chat_template=TOOLS)[0][0]
    assert written == rendered
    assert written.count("<|end|>") == 3
    assert not any("<|end|>" in p.text for p in pieces if isinstance(p, TextPiece) and p.trusted)


@pytest.mark.parametrize(
    ("source", "role"),
    [
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "system"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "system"),
        (
            "{% for m in messages %}{{ m.content if loop.first else m.content | trim | tojson }}{% endfor %}",
            "user",
        ),
        ("{% for m in messages %}{{ m.content if loop.first else m.content | e }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m.content.split('|')[0] }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "system"),
    ],
)
def test_contents_that_cannot_be_told_apart_are_refused(source: str, role: str) -> None:
    chat = ChatTemplate("odd", source)
    with pytest.raises(
        ChatTemplateError, match=f"'odd' drops, repeats or rewrites the content of a '{role}'"
    ):
        chat.render([ChatMessage("system", ("be kind",)), ChatMessage("user", ("a|b",))], True)


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ messages[9].content.x.y }}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}"],
)
def test_a_broken_or_unsafe_template_fails_clearly(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="'odd' fails"):
        ChatTemplate("odd", source).render([ChatMessage("user", ("a",))], True)


def test_survives_a_trip_as_json() -> None:
    chat = template("llama3")
    assert ChatTemplate.from_json(chat.to_json()) == chat


def test_folders(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path) is None
    config = {
        "chat_template": [
            {"name": "tool_use", "template": "T"},
            {"name": "default", "template": "D{{ bos_token }}"},
        ]
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": {"content": "<s>"}}))
    chat = ChatTemplate.from_folder(tmp_path)
    assert chat is not None
    assert chat.render([], False) == (TextPiece("D<s>", trusted=True),)
    (tmp_path / "chat_template.jinja").write_text("J")
    chat = ChatTemplate.from_folder(tmp_path)
    assert chat is not None
    assert chat.source == "J"


def test_imports_neither_torch_nor_tokenizers() -> None:
    heavy = "{'torch', 'tokenizers', 'transformers', 'xgrammar'}"
    code = f"import sys, weft.runtime.llm.chat; sys.exit(bool({heavy} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
