"""Every way to run a program gives the same answer."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from weft import gen, program, search
from weft.apps import rag
from weft.apps.instructions import ANSWER
from weft.graph.codec import from_json

from .conftest import Server

GRAPH = Path(rag.__file__).parent / "answer.json"


@program
def ask(question: str) -> str:
    """A search and an answer."""
    found = search("handbook", question, k=3, mode="lexical")
    return gen(f"Passages:\n{found}\n\nQuestion: {question}", system=ANSWER, max_tokens=24)


def test_the_graph_file_of_the_rag_app_is_current() -> None:
    graph = rag.answer.graph()
    nodes = tuple(replace(node, location="") for node in graph)
    assert from_json(GRAPH.read_text("utf-8")) == replace(graph, nodes=nodes)


def test_command_graph_file_reflection_and_client_agree(server: Server) -> None:
    question = "Where is Sahus' main office?"
    expected = rag.answer.using(server.client)(question)
    assert expected.startswith("Hujudru [")
    run = server.weft("run", "rag", "-i", f"question={question}", "--json")
    assert json.loads(run.stdout)["result"] == expected, run.stderr
    submit = server.weft("submit", str(GRAPH), "-i", f"question={question}", "--json")
    assert expected in submit.stdout, submit.stderr
    assert through_reflection(server, question) == expected


def through_reflection(server: Server, question: str) -> str:
    """What a client gets that knows nothing of weft but the server's address, as grpcurl does."""
    request = {"graph": json.loads(GRAPH.read_text("utf-8")), "inputs": {"question": json.dumps(question)}}
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("weft.v1.Orchestrator")
        method = service.FindMethodByName("Invoke")
        call: Any = channel.unary_unary(
            "/weft.v1.Orchestrator/Invoke",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        message = json_format.ParseDict(_without_json_values(request), GetMessageClass(method.input_type)())
        answer: dict[str, Any] = json_format.MessageToDict(call(message, timeout=60))
    return str(answer["outputs"][0]["text"]["text"])


def _without_json_values(request: dict[str, Any]) -> dict[str, Any]:
    """The file as strict proto3 JSON, where schemas and constants are JSON text."""
    for node in request["graph"]["nodes"]:
        for op, field in (("const", "value"), ("input", "default")):
            if field in node.get(op, {}) and not isinstance(node[op][field], str):
                node[op][field] = json.dumps(node[op][field])
        for kind in (node.get("generate", {}).get("type", {}), node.get("input", {}).get("type", {})):
            if isinstance(kind.get("data"), dict):
                kind["data"] = json.dumps(kind["data"])
        constraint = node.get("generate", {}).get("constraint", {})
        if isinstance(constraint.get("json_schema"), dict):
            constraint["json_schema"] = json.dumps(constraint["json_schema"])
    return request


def test_streamed_pieces_make_up_the_answer(server: Server) -> None:
    local = ask.using(server.client)
    pieces = list(local.stream("Who is the mayor of Hapo?"))
    assert len(pieces) > 1
    assert "".join(pieces) == local("Who is the mayor of Hapo?")


def test_runs_of_eight_clients_at_once_equal_a_run_alone(server: Server) -> None:
    questions = [
        "Who is the mayor of Hapo?",
        "What is the population of Hujudru?",
        "When was Gidre settled?",
        "What is Kenstad known for?",
        "Which river does Gidre stand on?",
    ]
    local = ask.using(server.client)
    alone = [local(question) for question in questions]
    assert len(set(alone)) > 1

    def client(number: int) -> list[str]:
        async def runs() -> list[str]:
            calls = [(questions[(number + i) % len(questions)],) for i in range(50)]
            return await local.abatch(calls, concurrency=50)

        return asyncio.run(runs())

    with ThreadPoolExecutor(8) as pool:
        for number, answers in enumerate(pool.map(client, range(8))):
            assert answers == [alone[(number + i) % len(questions)] for i in range(50)]


@pytest.mark.parametrize("target", ["rag", "react"])
def test_explain_shows_every_pass(server: Server, target: str) -> None:
    shown = server.weft("explain", target)
    if target == "rag":
        assert shown.returncode == 0, shown.stderr
        for name in ("as written", "lower", "prune", "dedupe"):
            assert name in shown.stdout
    else:
        assert shown.returncode == 2
        assert "async" in shown.stderr
