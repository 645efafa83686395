from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from weft.apps.reference_model.training.agreement import differences
from weft.apps.reference_model.training.encoder import MODEL, Encoder
from weft.apps.reference_model.training.evaluate import GROUPS, cases, evaluate
from weft.apps.reference_model.training.feed import shard
from weft.apps.reference_model.training.network import Shape, load
from weft.apps.reference_model.training.rows import DOCUMENT, FIRST_TASK
from weft.apps.reference_model.training.train import SMOKE, PlanMismatch, learnt, train

TINY = replace(SMOKE, steps=6, rows=2, shape=Shape(width=32, layers=1, heads=2, kv_heads=1, hidden=32))


def minutes_between_calls() -> Callable[[], float]:
    ticks = count()
    return lambda: 60.0 * next(ticks)


def digest(*places: float) -> str:
    rows = [shard(1_000_003 + index, 8, progress=place) for index, place in enumerate(places)]
    return hashlib.sha256(b"".join(each.tobytes() for each in rows)).hexdigest()


def test_the_data_are_what_the_published_training_saw() -> None:
    assert digest(0.0, 0.5, 0.9) == "cd093a4346157e172ec1ff92bc630d3ecaf203a73f2310b1b5a037153fa97073"


def test_the_encoder_makes_the_tokens_of_the_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encode = Encoder()
    for group in GROUPS.values():
        (case,) = cases(group, 1, 0.5)
        messages, reply = case.sample.conversation(case.branch)
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens, said = case.tokens(encode)
        assert tokens == whole
        assert tokenizer.decode(said, skip_special_tokens=True) == reply


def test_a_reply_counts_as_right_when_greedy_decoding_gives_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    drawn = [next(cases(GROUPS[name], 1, 1.0)) for name in ("relevance", "alias, 4-16 passages", "refine")]
    right = 0
    for case in drawn:
        _, reply = case.sample.conversation(case.branch)
        prompt = torch.tensor([case.tokens(Encoder())[0]])
        output = model.generate(prompt, max_new_tokens=60, do_sample=False)
        said = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
        right += said == reply
    assert evaluate(load(MODEL), drawn) == right / len(drawn)


def test_the_engine_says_what_transformers_says() -> None:
    encode = Encoder()
    names = ("answer, 1-12 passages", "alias, 4-16 passages", "agent, chat turns", "summarize")
    prompts = [next(cases(GROUPS[name], 1, 1.0)).tokens(encode)[0] for name in names]
    assert differences(MODEL, prompts) == []


def test_a_step_learns_from_all_replies_and_from_other_documents_each_time() -> None:
    codes = torch.tensor([0, DOCUMENT, FIRST_TASK, DOCUMENT, DOCUMENT, FIRST_TASK + 3, 0, DOCUMENT] * 25)
    times = torch.zeros(len(codes))
    for step in range(400):
        places = learnt(codes, 100, step)
        assert len(set(places.tolist())) == 100
        times[places] += 1
    assert (times[codes >= FIRST_TASK] == 400).all()
    assert (times[codes == 0] == 0).all()
    of_documents = times[codes == DOCUMENT] / 400  # room for half of them
    torch.testing.assert_close(of_documents, torch.full((100,), 0.5), rtol=0, atol=0.1)


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole: list[str] = []
    assert train(TINY, tmp_path / "whole", minutes=100, workers=1, log=whole.append)
    pieces: list[str] = []
    halves = tmp_path / "halves"
    while not train(TINY, halves, minutes=6, workers=1, log=pieces.append, clock=minutes_between_calls()):
        pass
    assert sum("of 6; exact match" in line for line in pieces) > 1
    one, other = load(tmp_path / "whole"), load(halves)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)  # the optimizers' state is kept in bfloat16
    with pytest.raises(PlanMismatch, match="another folder"):
        train(replace(TINY, seed=2), halves, minutes=1, workers=1)
