from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import pytest

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Format, Gather, Input, Parse, Search
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Rate, Score, Upsert, Weigh
from weft.graph.ops.user import Generate, Ingest, Probe, Rerank, Select
from weft.graph.prompt import Fixed, Message, Piece, Slot, merge_fixed, slots
from weft.graph.sampling import Sampling
from weft.graph.types import INTEGER, JSON, PASSAGES, STRINGS


class Template:
    """A template in ChatML's manner that refuses two user messages in a row."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        roles = [message.role for message in messages]
        if ("user", "user") in itertools.pairwise(roles):
            raise ValueError("roles must alternate")
        pieces: list[Piece] = []
        for message in messages:
            parts = [Fixed(part) if isinstance(part, str) else part for part in message.parts]
            pieces += [Fixed(f"<{message.role}>", True), *parts, Fixed("<end>", True)]
        return merge_fixed([*pieces, *([Fixed("<assistant>", True)] if add_generation_prompt else [])])


DEPLOYMENT = Deployment({"chat": ModelSpec("chat", 99, Template()), "base": ModelSpec("base", 99)}, "chat")
USER = Message("user", ("Question: ", Slot("q")))


def lowered(*nodes: Node, outputs: Sequence[Value] = (), deployment: Deployment = DEPLOYMENT) -> list[Node]:
    live = LiveGraph(deployment, disabled=("pipeline_decode", "split_prefill", "stage"))
    return list(live.extend(Graph(nodes, tuple(outputs) or (Value(nodes[-1].id),)), closed=True))


T = TypeVar("T", bound=Op)


def only(nodes: Sequence[Node], kind: type[T]) -> tuple[Node, T]:
    (node,) = [node for node in nodes if isinstance(node.op, kind)]
    assert isinstance(node.op, kind)
    return node, node.op


def test_generate_becomes_a_prefill_of_the_rendered_chat_and_a_decode() -> None:
    nodes = lowered(Node(0, Input("q")), Node(1, Generate((USER,)), {"q": Value(0)}, location="app.py:3"))
    prefill, op = only(nodes, Prefill)
    pieces = (Fixed("<user>", True), Fixed("Question: "), Slot("q"), Fixed("<end><assistant>", True))
    assert op == Prefill("chat", pieces)
    assert prefill.location == "app.py:3"
    assert only(nodes, Decode)[0].args == {"kv": Value(prefill.id)}


def test_a_typed_generate_is_parsed_and_its_text_stays_available() -> None:
    generate = Node(1, Generate((USER,), STRINGS), {"q": Value(0)})
    nodes = lowered(Node(0, Input("q")), generate, outputs=(Value(1, 0), Value(1, 1)))
    decode, _ = only(nodes, Decode)
    assert only(nodes, Parse)[0].args == {"text": Value(decode.id, 1)}


def test_data_in_a_prompt_is_formatted_once() -> None:
    two = Message("user", (Slot("d"), Slot("e")))
    nodes = lowered(Node(0, Input("d", STRINGS)), Node(1, Generate((two,)), {"d": Value(0), "e": Value(0)}))
    text = Value(only(nodes, Format)[0].id)
    assert only(nodes, Prefill)[0].args == {"d": text, "e": text}


@pytest.mark.parametrize(
    ("seed", "seeds"), [(7, [7, 8, 9]), (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63)])], ids=["small", "last"]
)
def test_samples_share_one_prefill_and_differ_in_their_seeds(seed: int, seeds: list[int]) -> None:
    sampled = Generate((USER,), sampling=Sampling(temperature=1.0, seed=seed), n=3)
    nodes = lowered(Node(0, Input("q")), Node(1, sampled, {"q": Value(0)}))
    only(nodes, Prefill)
    assert [n.op.sampling.seed for n in nodes if isinstance(n.op, Decode)] == seeds
    only(nodes, Gather)


def test_equal_greedy_samples_are_computed_once() -> None:
    nodes = lowered(Node(0, Input("q")), Node(1, Generate((USER,), n=3), {"q": Value(0)}))
    decode, _ = only(nodes, Decode)
    assert set(only(nodes, Gather)[0].args.values()) == {Value(decode.id, 1)}


def test_the_next_turn_continues_the_kv_value_of_the_reply() -> None:
    turns = (USER, Message("assistant", (Slot("r"),)), Message("user", ("And then?",)))
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Generate((USER,)), {"q": Value(0)}),
        Node(2, Generate(turns), {"q": Value(0), "r": Value(1, 1)}),
    )
    first, second = (node for node in nodes if isinstance(node.op, Prefill))
    reply = next(node for node in nodes if isinstance(node.op, Decode) and node.args["kv"].node == first.id)
    assert second.args == {"kv": Value(reply.id)}
    assert second.op == Prefill(
        "chat", (Fixed("<end><user>", True), Fixed("And then?"), Fixed("<end><assistant>", True))
    )


def test_what_a_model_fills_in_twice_is_one_context() -> None:
    begun = ("Name: ", Slot("a"), "\nAge: ")
    nodes = lowered(
        Node(0, Generate((Message("raw", begun[:1]),))),
        Node(1, Generate((Message("raw", begun),)), {"a": Value(0)}),
        outputs=(Value(0), Value(1)),
    )
    name, age = (node for node in nodes if isinstance(node.op, Decode))
    between = next(node for node in nodes if node.id == age.args["kv"].node)
    assert between.args == {"kv": Value(name.id)}
    assert between.op == Prefill("chat", (Fixed("\nAge: ", True),))


def test_a_reply_elsewhere_in_a_prompt_is_read_as_text() -> None:
    other = Message("user", ("Shorten: ", Slot("r")))
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Generate((USER,)), {"q": Value(0)}),
        Node(2, Generate((other,)), {"r": Value(1)}),
    )
    assert all("kv" not in node.args for node in nodes if isinstance(node.op, Prefill))


def test_a_reply_that_is_continued_at_once_needs_no_prefill() -> None:
    raw = Message("raw", ("Once ", Slot("q")))
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Generate((raw,)), {"q": Value(0)}),
        Node(2, Generate((raw, Message("raw", (Slot("r"),)))), {"q": Value(0), "r": Value(1)}),
    )
    only(nodes, Prefill)
    first, second = (node for node in nodes if isinstance(node.op, Decode))
    assert second.args == {"kv": Value(first.id)}


def test_conversations_go_on_across_increments_and_merged_nodes() -> None:
    live = LiveGraph(DEPLOYMENT)
    ask = Generate((USER,))
    live.extend(Graph((Node(0, Input("q")), Node(1, ask, {"q": Value(0)})), ()), closed=False)
    outside = {Value(0): live.types[live.resolve(Value(0))]}
    assert live.extend(Graph((Node(2, ask, {"q": Value(0)}),), (), outside=outside), closed=False) == ()
    turns = Generate((USER, Message("assistant", (Slot("r"),)), Message("user", ("More",))))
    outside[Value(2, 1)] = live.types[live.resolve(Value(2, 1))]
    added = live.extend(
        Graph((Node(3, turns, {"q": Value(0), "r": Value(2, 1)}),), (), outside=outside), closed=False
    )
    assert only(added, Prefill)[0].args == {"kv": live.resolve(Value(1, 1))._replace(output=0)}


def test_a_begun_reply_stands_after_the_generation_prompt() -> None:
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Generate((USER, Message("assistant", ("Answer:",)))), {"q": Value(0)}),
    )
    assert only(nodes, Prefill)[1].pieces[-2:] == (Fixed("<end><assistant>", True), Fixed("Answer:"))


def test_raw_text_is_trusted_and_untouched() -> None:
    nodes = lowered(Node(0, Generate((Message("raw", ("<user>hi",)),))))
    assert only(nodes, Prefill)[1].pieces == (Fixed("<user>hi", True),)


def test_a_slot_called_kv_does_not_take_the_context_for_its_operand() -> None:
    nodes = lowered(
        Node(0, Input("q")), Node(1, Generate((Message("user", (Slot("kv"),)),)), {"kv": Value(0)})
    )
    assert only(nodes, Prefill)[0].args == {"kv_": Value(0)}


def test_a_model_without_template_reads_a_single_question_as_it_is() -> None:
    messages = (Message("system", ("Be brief.",)), USER)
    nodes = lowered(Node(0, Input("q")), Node(1, Generate(messages, model="base"), {"q": Value(0)}))
    assert only(nodes, Prefill)[1] == Prefill("base", (Fixed("Be brief.\n\nQuestion: "), Slot("q")))


@pytest.mark.parametrize(
    ("messages", "model", "said"),
    [
        ((USER, USER), "chat", "chat template of model 'chat' refuses: roles must alternate"),
        ((USER, Message("assistant", ("x",))), "base", "'base' has no chat template.*raw=True"),
        ((USER, Message("raw", ("x",))), "chat", "raw text and chat messages"),
        ((USER,), "gone", "unknown model 'gone'; known: 'base', 'chat'"),
    ],
)
def test_prompts_that_a_model_cannot_take(messages: tuple[Message, ...], model: str, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        lowered(Node(0, Input("q")), Node(1, Generate(messages, model=model), {"q": Value(0)}))


def test_select_becomes_a_score() -> None:
    nodes = lowered(Node(0, Input("q")), Node(1, Select((USER,), ("a", "b"), "greedy"), {"q": Value(0)}))
    assert only(nodes, Score)[1] == Score("chat", ("a", "b"), "greedy")


def test_probe_becomes_a_weighing_of_what_was_read_or_of_ids() -> None:
    nodes = lowered(Node(0, Input("q")), Node(1, Probe((USER,), start=2, top=1), {"q": Value(0)}))
    weigh, op = only(nodes, Weigh)
    assert (op, weigh.args) == (Weigh("chat", (), 2, 1), {"kv": Value(only(nodes, Prefill)[0].id)})
    nodes = lowered(Node(0, Probe(ids=(3, 4), start=0)))
    assert [(node.op, node.args) for node in nodes] == [(Weigh("chat", (3, 4), 0), {})]


def test_a_generation_after_ids_reads_nothing_else() -> None:
    nodes = lowered(Node(0, Generate((), ids=(3, 4))))
    assert [(node.op, node.args) for node in nodes] == [(Decode("chat", ids=(3, 4)), {})]


def test_the_tokens_of_a_generation_are_those_of_its_decode() -> None:
    node = Node(0, Generate((Message("raw", ("a",)),), logprobs=2))
    nodes = lowered(node, Node(1, Gather("list"), {"0": Value(0, 2)}))
    decode, op = only(nodes, Decode)
    assert op.logprobs == 2
    assert only(nodes, Gather)[0].args == {"0": Value(decode.id, 2)}


def test_ingest_and_search_get_their_embeddings_and_keep_their_order() -> None:
    nodes = lowered(
        Node(0, Input("d", JSON)),
        Node(1, Ingest("i"), {"documents": Value(0)}),
        Node(2, Const('"q"')),
        Node(3, Const("3", INTEGER)),
        Node(4, Search("i"), {"query": Value(2), "k": Value(3), "after": Value(1, 1)}),
    )
    chunk, _ = only(nodes, Chunk)
    upsert, _ = only(nodes, Upsert)
    search, _ = only(nodes, Search)
    texts, queries = (node for node in nodes if isinstance(node.op, Embed))
    assert texts.args == {"texts": Value(chunk.id, 1)}
    assert upsert.args == {"chunks": Value(chunk.id), "vectors": Value(texts.id)}
    assert search.args["vectors"] == Value(queries.id)
    assert search.args["after"] == Value(upsert.id, 1)


def test_a_lexical_search_needs_no_embedding() -> None:
    k = Node(1, Const("3", INTEGER))
    search = Node(2, Search("i", "lexical"), {"query": Value(0), "k": Value(1)})
    assert not [n for n in lowered(Node(0, Input("q")), k, search) if isinstance(n.op, Embed)]


@pytest.mark.parametrize("reranker", ["", "cross-encoder"])
def test_rerank_is_a_rating_by_the_model_unless_there_is_a_cross_encoder(reranker: str) -> None:
    deployment = Deployment(DEPLOYMENT.models, "chat", reranker=reranker)
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Input("p", PASSAGES)),
        Node(2, Const("2", INTEGER)),
        Node(3, Rerank(), {"query": Value(0), "passages": Value(1), "k": Value(2)}),
        deployment=deployment,
    )
    (node,) = (node for node in nodes if "passages" in node.args)
    assert node.args == {"query": Value(0), "passages": Value(1), "k": Value(2)}
    if reranker:
        assert isinstance(node.op, Rerank)
        return
    assert isinstance(node.op, Rate)
    assert node.op.model == "chat"
    assert slots(node.op.pieces) == ("passage", "query")


def test_policies_reach_the_primitives() -> None:
    policy = Policy(timeout_s=3.0, attempts=2)
    nodes = lowered(Node(0, Input("q")), Node(1, Generate((USER,)), {"q": Value(0)}, policy=policy))
    assert only(nodes, Decode)[0].policy == policy


def test_dead_nodes_go_and_effects_stay() -> None:
    nodes = lowered(
        Node(0, Input("q")),
        Node(1, Generate((USER,)), {"q": Value(0)}),
        Node(2, Const("[]")),
        Node(3, Ingest("i"), {"documents": Value(2)}),
        outputs=(Value(0),),
    )
    labels = [node.op.label() for node in nodes]
    assert labels == ["input", "const", "chunk", "embed", "upsert"]
