from __future__ import annotations

import json
from collections.abc import Callable

from weft.frontend.explanation import Explanation
from weft.proto import orchestrator_pb2 as pb

Explain = Callable[..., pb.ExplainResponse]


def test_the_text_has_the_rules_and_the_predictions(explain: Explain) -> None:
    lines = str(Explanation.of(explain())).splitlines()
    assert lines[0] == "== as written: 3 nodes"
    assert lines[1].startswith('%0 = input("question")')
    passes = lines.index("== split_prefill: cut 1 prompt (1.5 ms)")
    assert lines[passes + 1 : passes + 3] == [
        "  changed   %4: cut in two (/home/ann/app.py:5)",
        "  left      %3: known as early [known together] (/home/ann/app.py:4)",
    ]
    final = lines[lines.index("== the final graph") :]
    assert final[1] == "predicted: 40 ms in all, if no engine ever makes a node wait"
    assert final[3].startswith("     0 ms      0 ms *  latency     %0 = input(")
    assert final[5].startswith("  0.05 ms     40 ms    group       %4 = map(")
    assert final[6].strip() == "body:"
    assert final[-1].strip() == "return %4"
    assert len({line.index(start) for line, start in zip(final[3:6], ("%0", "%3", "%4"), strict=True)}) == 1


def test_a_server_that_predicts_nothing_is_understood(explain: Explain) -> None:
    response = explain()
    del response.predictions[:]
    explanation = Explanation.of(response)
    assert explanation.milliseconds == 0
    assert "predicted" not in str(explanation)
    assert str(explanation).endswith("return %4")
    assert "predicted" not in explanation.html()


def test_json_has_notes_and_predictions(explain: Explain) -> None:
    data = json.loads(json.dumps(Explanation.of(explain()).json()))
    assert data["program"] == "answer"
    assert [step["name"] for step in data["passes"]] == ["as written", "split_prefill"]
    (refusal,) = data["passes"][1]["refusals"]
    assert refusal == {
        "node": 3,
        "text": "known as early",
        "rule": "known together",
        "location": "/home/ann/app.py:4",
    }
    assert [(one["node"], one["critical"]) for one in data["predictions"]] == [
        (0, True),
        (3, True),
        (4, False),
    ]


def test_markdown_has_a_flowchart_a_pass(explain: Explain) -> None:
    markdown = Explanation.of(explain()).mermaid()
    assert markdown.count("```mermaid\nflowchart") == 2
    assert "## split_prefill\n\ncut 1 prompt\n" in markdown


def test_the_makers_are_those_of_the_final_graph(explain: Explain) -> None:
    assert Explanation.of(explain()).makers == {0: (), 3: (0,), 4: (3,)}
