"""What SGLang's frontend sends to a server, in the bodies of its version 0.5.17."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest

from weft import Context, program, select
from weft.graph.ops.user import ScoreMethod

from . import sglang_programs
from .conftest import Server

SAMPLING = {
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "max_new_tokens": 16,
    "min_new_tokens": 0,
    "n": 1,
    "stop": [],
    "stop_token_ids": [],
    "stop_regex": [],
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "ignore_eos": False,
    "regex": None,
    "json_schema": None,
}
PROMPT = "<|bos|><|user|>Passage: Hipujas was founded in 1987.\nQuestion: When?<|end|><|assistant|>"
CHOICES = ["1987", "2021", "not found"]


def generate(raw: httpx2.Client, **body: Any) -> Any:
    answer = raw.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_model_and_an_empty_cache(raw: httpx2.Client) -> None:
    info = raw.get("/get_model_info").json()
    assert info["model_path"].endswith("/reference_model/model")
    warm = {"text": "A prefix to be read.", "sampling_params": {"max_new_tokens": 0}}
    first = generate(raw, **warm)
    assert (first["text"], first["meta_info"]["completion_tokens"]) == ("", 0)
    assert generate(raw, **warm)["meta_info"]["cached_tokens"] == first["meta_info"]["prompt_tokens"]
    assert raw.post("/flush_cache").status_code == 200
    assert generate(raw, **warm)["meta_info"]["cached_tokens"] == 0


def test_requests_with_different_keys_share_nothing_that_was_read(raw: httpx2.Client) -> None:
    def cached(key: str) -> int:
        warm = {"text": "A prefix of one tenant.", "sampling_params": {"max_new_tokens": 0}}
        found: int = generate(raw, **warm, extra_key=key)["meta_info"]["cached_tokens"]
        return found

    assert cached("a") == cached("b") == 0
    assert cached("a") > 0


def test_texts_are_continued(server: Server, raw: httpx2.Client) -> None:
    @program
    def written(limit: int) -> str:
        return Context().text(PROMPT).gen(max_tokens=16)

    expected = written.using(server.client)(1)
    one = generate(raw, text=PROMPT, sampling_params=SAMPLING)
    assert one["text"] == expected
    assert one["meta_info"]["finish_reason"]["type"] in ("stop", "length")
    lines = raw.post("/generate", json={"text": PROMPT, "sampling_params": SAMPLING, "stream": True}).text
    *events, done = [line.removeprefix("data: ") for line in lines.split("\n\n") if line]
    texts = [json.loads(found)["text"] for found in events]
    assert (texts[-1], done) == (expected, "[DONE]")
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    several = generate(raw, text=[PROMPT, "The "], sampling_params={**SAMPLING, "n": 2, "stop": "e"})
    assert [item["text"] for item in several[:2]] == [expected.partition("e")[0]] * 2
    assert len(several) == 4
    number = generate(raw, text="The year: ", sampling_params={**SAMPLING, "regex": r"(19|20)\d{2}"})
    assert number["text"][:2] in ("19", "20")
    assert len(number["text"]) == 4
    schema = {**SAMPLING, "json_schema": '{"type": "boolean"}'}
    assert generate(raw, text="Yes? ", sampling_params=schema)["text"] in ("true", "false")


def test_select_chooses_as_weft_does(server: Server, raw: httpx2.Client) -> None:
    """The three requests of its `select`, and its arithmetic."""

    @program
    def selected(x: int) -> str:
        return select(PROMPT, CHOICES, raw=True)

    shared = generate(raw, text=PROMPT, sampling_params={"max_new_tokens": 0})
    start = shared["meta_info"]["prompt_tokens"] - 2
    items = generate(
        raw,
        text=[PROMPT + choice for choice in CHOICES],
        sampling_params={"max_new_tokens": 0, "temperature": 0},
        return_logprob=True,
        return_text_in_logprobs=True,
        logprob_start_len=start,
    )
    means = []
    for item, choice in zip(items, CHOICES, strict=True):
        (_, _, healed), *tokens = item["meta_info"]["input_token_logprobs"]
        assert healed == "<|assistant|>"  # the prompt's last token, which the frontend leaves out
        assert "".join(text for _, _, text in tokens) == choice
        means.append(sum(logprob for logprob, _, _ in tokens) / len(tokens))
        assert item["meta_info"]["output_token_logprobs"] == []
        ids = [token for _, token, _ in tokens]
        alone = generate(raw, input_ids=[ids], sampling_params={"max_new_tokens": 0}, return_logprob=True)
        (unconditional,) = (each["meta_info"]["input_token_logprobs"] for each in alone)
        assert [token for _, token, _ in unconditional] == ids
        assert unconditional[0][0] is None
        assert all(text is None for _, _, text in unconditional)
    assert CHOICES[means.index(max(means))] == selected.using(server.client)(1)


def test_what_is_generated_can_be_weighed(raw: httpx2.Client) -> None:
    found = generate(
        raw,
        text=PROMPT,
        sampling_params={**SAMPLING, "max_new_tokens": 3},
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
    )
    meta = found["meta_info"]
    assert "".join(text for _, _, text in meta["output_token_logprobs"]) == found["text"]
    assert [len(top) for top in meta["output_top_logprobs"]] == [2] * meta["completion_tokens"]
    assert "".join(text for _, _, text in meta["input_token_logprobs"]) == PROMPT
    assert meta["input_token_logprobs"][0][0] is None
    assert meta["input_top_logprobs"][0] is None
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "text", "pass either 'text' or 'input_ids'"),
        ({"text": "a", "input_ids": [1]}, "text", "pass either"),
        ({"text": []}, "text", "at least 1 item"),
        ({"input_ids": [[]]}, "input_ids[0]", "at least 1 item"),
        ({"input_ids": [-1]}, "input_ids[0][0]", "greater than or equal to 0"),
        ({"text": ["a"] * 600, "sampling_params": {"n": 2}}, "n", "1200 texts are too many"),
        ({"text": "a", "top_logprobs_num": 999}, "top_logprobs_num", "less than or equal to 128"),
        ({"input_ids": [1, 2]}, "input_ids", "can be weighed, not continued"),
        ({"text": "a", "image_data": "x"}, "image_data", "unknown parameter"),
        ({"text": "a", "extra_key": ["x"]}, "extra_key", "string"),
        ({"text": "a", "sampling_params": {"min_p": 0.1}}, "min_p", "is not supported"),
        ({"text": "a", "sampling_params": {"min_new_tokens": 3}}, "min_new_tokens", "pass `ignore_eos`"),
        (
            {"text": "a", "sampling_params": {"ignore_eos": True, "regex": "a"}},
            "ignore_eos",
            "does not go with a constrained answer",
        ),
        ({"text": "a", "sampling_params": {"max_new_tokens": -1}}, "max_new_tokens", "greater than"),
        ({"text": "a", "sampling_params": {"regex": "a", "json_schema": "{}"}}, "regex", "pass either"),
        ({"text": "a", "sampling_params": {"regex": "("}}, None, "cannot be enforced"),
        (
            {
                "text": "a",
                "sampling_params": {"max_new_tokens": 0},
                "return_logprob": True,
                "logprob_start_len": 99,
            },
            None,
            "the prompt has only",
        ),
    ],
)
def test_what_is_refused(raw: httpx2.Client, body: Any, param: str | None, said: str) -> None:
    answer = raw.post("/generate", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_a_text_of_forced_length(raw: httpx2.Client) -> None:
    free = generate(raw, text=PROMPT, sampling_params={**SAMPLING, "max_new_tokens": 30})
    forced = generate(
        raw, text=PROMPT, sampling_params={**SAMPLING, "max_new_tokens": 30, "ignore_eos": True}
    )
    assert free["meta_info"]["completion_tokens"] < forced["meta_info"]["completion_tokens"] == 30
    assert forced["text"].startswith(free["text"])
    assert forced["meta_info"]["finish_reason"] == {"type": "length", "length": 30}


@pytest.mark.skipif(  # no extra can bring it, as its package asks for a whole server's dependencies
    find_spec("sglang") is None,
    reason="make sglang installs it",
)
def test_programs_in_its_own_language(server: Server) -> None:
    file = Path(sglang_programs.__file__)
    ran = subprocess.run(
        [sys.executable, file, f"http://{server.http}"],
        env={**os.environ, "PYTHONPATH": f"{file.parents[2] / 'benchmarks'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)

    @program
    def written(x: int) -> str:
        return Context().text(sglang_programs.PROMPT).gen(max_tokens=40, stop="]")

    @program
    def forked(x: int) -> list[str]:
        heads = [Context().text(f'{sglang_programs.PROMPT}["{letter}') for letter in "PHG"]
        return [head.gen(max_tokens=8) for head in heads]

    @program
    def selected(x: int) -> list[str]:
        asked, offered = sglang_programs.ASKED, sglang_programs.CHOICES
        return [select(asked, offered, raw=True, method=method) for method in get_args(ScoreMethod)]

    expected = written.using(server.client)(1)
    assert found["written"] == found["streamed"] == expected
    assert found["batch"] == [expected] * 8
    assert found["forked"] == " | ".join(forked.using(server.client)(1))
    year, number = found["constrained"]
    assert year[:2] in ("19", "20")
    assert int(number) is not None
    assert found["roles"].startswith("SYSTEM:Be brief.\nUSER:Who leads Hapo?\nASSISTANT:")
    choices = dict(zip(get_args(ScoreMethod), selected.using(server.client)(1), strict=True))
    assert found["selected"] == choices
