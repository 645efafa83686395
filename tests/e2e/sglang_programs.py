"""Programs in SGLang's own language, for a process of their own (see `make sglang`).

``python sglang_programs.py URL``: runs them on the server there and writes what they gave as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PROMPT = (
    "<|bos|><|system|>Write three short search queries for the question. Reply with a JSON list of three "
    "strings.<|end|><|user|>Question: Who leads Postos Partners?<|end|><|assistant|>"
)
CHOICES = ["1987", "2021", "in Hapo"]  # none has a log-probability of exactly 0, which its means leave out
ASKED = "<|bos|><|user|>Passage: Hipujas was founded in 1987.\nQuestion: When?<|end|><|assistant|>"


def run(url: str) -> dict[str, Any]:
    """What each program gives."""
    from systems import sglang_frontend  # in benchmarks/, which is on this process's path

    sgl, _, choices, _, endpoint = sglang_frontend.load()
    backend = endpoint.RuntimeEndpoint(url)
    sgl.set_default_backend(backend)

    @sgl.function
    def written(s: Any) -> None:
        s += PROMPT + sgl.gen("text", max_tokens=40, temperature=0, stop="]")

    @sgl.function
    def forked(s: Any) -> None:
        s += PROMPT
        forks = s.fork(3)
        for fork, letter in zip(forks, "PHG", strict=True):
            fork += f'["{letter}' + sgl.gen("text", max_tokens=8, temperature=0)
        s += " | ".join(fork["text"] for fork in forks)

    @sgl.function
    def constrained(s: Any) -> None:
        s += "The year: " + sgl.gen("year", max_tokens=8, regex=r"(19|20)\d{2}", temperature=0)
        s += ", the number: " + sgl.gen("number", max_tokens=6, dtype=int, temperature=0)

    @sgl.function
    def talk(s: Any) -> None:
        s += sgl.system("Be brief.")
        s += sgl.user("Who leads Hapo?")
        s += sgl.assistant(sgl.gen("reply", max_tokens=6, temperature=0))

    @sgl.function
    def selected(s: Any, method: Any) -> None:
        s += ASKED + sgl.select("choice", CHOICES, choices_method=method)

    methods = {
        "mean": choices.token_length_normalized,
        "greedy": choices.greedy_token_selection,
        "unconditional": choices.unconditional_likelihood_normalized,
    }
    found = {
        "written": written.run()["text"],
        "streamed": "".join(written.run(stream=True).text_iter("text")),
        "batch": [state["text"] for state in written.run_batch([{}] * 8)],
        "forked": forked.run().text().removeprefix(PROMPT),
        "constrained": [constrained.run()[name] for name in ("year", "number")],
        "roles": talk.run().text(),
        "selected": {name: selected.run(method=method)["choice"] for name, method in methods.items()},
    }
    backend.flush_cache()
    return found


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1])))
