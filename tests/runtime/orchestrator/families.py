"""Models of several families, which write what they are told to, with the tools of their chat templates."""

from __future__ import annotations

from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.proto import worker_pb2
from weft.runtime.llm.chat import ChatTemplate

from .conftest import EchoWorker, Stage, retrieval

__all__ = ["HERMES", "LLAMA", "MISTRAL", "PLAIN", "Scripted", "model"]

HERMES = """\
{%- if tools %}<|sys|>{% if messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}Tools:
{%- for tool in tools %} {{ tool.function.name }}: {{ tool.function.description }}{% endfor %}<|end|>
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|user|>{% endif %}
{{- '<tool_response>' + m.content + '</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>{% endif %}
{%- elif m.role == 'assistant' %}<|ai|>{{ m.content }}
{%- for call in m.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>
{%- elif not (m.role == 'system' and tools) %}<|user|>{{ m.content }}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|ai|>{% endif %}"""
LLAMA = """\
{%- for m in messages %}
{%- if m.role == 'tool' %}<|ipython|>{{ m.content | tojson }}<|end|>
{%- elif m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('only single calls') }}{% endif %}
{%- set call = m.tool_calls[0].function %}<|ai|>
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}<|end|>
{%- else %}<|{{ m.role }}|>
{%- if loop.first and tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{{- m.content | trim }}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
MISTRAL = """\
{%- set ns = namespace(index=0) %}
{%- for m in messages if not (m.role == 'tool' or m.tool_calls) %}
{%- if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set ns.index = ns.index + 1 %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls %}[TOOL_CALLS][
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- call.function | tojson }}:{{ call.id }}{{ ', ' if not loop.last }}
{%- endfor %}]</s>
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}:{{ m.tool_call_id }}[/TOOL_RESULTS]
{%- else %}{{ m.content }}</s>
{%- endif %}
{%- endfor %}"""
PLAIN = """\
{%- for m in messages %}
{%- if m.role == 'user' and not loop.first and messages[loop.index0 - 1].role == 'user' %}
{{- raise_exception('no two turns of the user') }}
{%- endif %}<|{{ m.role }}|>{{ m.content }}<|end|>
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
_CONTROL = ["<|end|>", "<|sys|>", "<|user|>"]


class Scripted(EchoWorker):
    """Writes what it is told to, and remembers what it has read before."""

    def __init__(self, worker_id: str, engines: list[worker_pb2.EngineInfo]) -> None:
        super().__init__(worker_id, engines)
        self.replies: list[str] = []
        self.read: list[str] = []

    def text(self, read: str) -> str:
        self.read.append(read)
        return self.replies.pop(0)

    @property
    def decodes(self) -> list[Decode]:
        return [node.op for node in self.nodes() if isinstance(node.op, Decode)]

    @property
    def prefills(self) -> list[tuple[str, bool]]:
        """What was read, without the values of slots, and whether it goes on from an earlier context."""
        return [
            (
                "".join(piece.text if isinstance(piece, Fixed) else "…" for piece in node.op.pieces),
                "kv" in node.args,
            )
            for node in self.nodes()
            if isinstance(node.op, Prefill)
        ]


async def model(stage: Stage, template: str, *replies: str) -> Scripted:
    info = worker_pb2.LlmInfo(
        context_length=100_000,
        tokenizer="fingerprint",
        chat_template=ChatTemplate("m", template).to_json(),
        control_tokens=_CONTROL,
    )
    engine = worker_pb2.EngineInfo(kind="llm", model="m", llm=info, capacity=8)
    worker = Scripted("w1", [engine, *retrieval()])
    worker.replies = list(replies)
    await worker.start(stage.address)
    stage.stack.push_async_callback(worker.stop)
    return worker
