"""The programs of SGLang's evaluation (section 6, appendix C).

`multi-choice` has MMLU's shape, `ReAct` makes its searches rather than replaying them, `tree of thought` is a
level less deep (2, 4, 8), and `JSON fields` asks for each field by itself, as ``weft run json_extract`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from pydantic import BaseModel

from weft.apps.instructions import AGENT, ANSWER, JUDGE, OUTLINE
from weft.apps.reference_model.world.questions import ask as worded

from .language import Ask, Each, Plan, Search
from .workload import Case, Sizes, Workload, World, brief, cited, combined, from_passages

__all__ = ["WORKLOADS"]

SHOTS: Final = 5
CHOICES: Final = 8
FIELDS: Final = 4
THOUGHTS: Final = 2
DEPTH: Final = 3


class Action(BaseModel):
    """What an agent does next."""

    tool: Literal["search", "calculator", "finish"]
    input: str


_VERDICT: Final = "Passages:\n{passages}\n\nQuestion: {question}\nProposed answer: {item}"
_SHOTS: Final = tuple(
    message
    for number in range(SHOTS)
    for message in (("user", f"{{shot{number}}}"), ("assistant", f"{{mark{number}}}"))
)
_NAMES: Final = tuple(f"{kind}{number}" for number in range(SHOTS) for kind in ("shot", "mark"))
MULTI_CHOICE: Final = Plan(
    ("questions", *_NAMES),
    (
        Each(
            "letters",
            "questions",
            Plan(
                ("item", *_NAMES),
                (Ask("letter", (("system", JUDGE), *_SHOTS, ("user", "{item}")), 1),),
                "letter",
            ),
        ),
    ),
    "letters",
    frozenset({"questions"}),
)
LLM_JUDGE: Final = Plan(
    ("question", "answers"),
    (
        Search("passages", "question", 4),
        Each(
            "verdicts",
            "answers",
            Plan(
                ("item", "passages", "question"),
                (Ask("verdict", (("system", JUDGE), ("user", _VERDICT)), 4),),
                "verdict",
            ),
        ),
    ),
    "verdicts",
    frozenset({"answers"}),
)
_TURN: Final = (("system", AGENT), ("user", "Question: {question}"))


def _after(turn: tuple[tuple[str, str], ...], number: int) -> tuple[tuple[str, str], ...]:
    """What the agent did, and what it found."""
    return (*turn, ("assistant", f"{{act{number}}}"), ("user", f"Observation: {{found{number}}}"))


_SECOND: Final = _after(_TURN, 0)
_THIRD: Final = _after(_SECOND, 1)
REACT: Final = Plan(
    ("question",),
    (
        Ask("act0", _TURN, 48, form=Action),
        Search("found0", "act0.input", 3),
        Ask("act1", _SECOND, 48, form=Action),
        Search("found1", "act1.input", 3),
        Ask("act2", _THIRD, 48, form=Action),
    ),
    "act2.input",
)


def _tree() -> Plan:
    """Every thought goes on from the conversation that leads to it; the last answers are merged."""
    first = (("user", "Passages:\n{passages}\n\nQuestion: {question}"),)
    steps: list[Ask] = []

    def grow(name: str, turns: tuple[tuple[str, str], ...], depth: int) -> Iterator[str]:
        for thought in range(THOUGHTS):
            child = f"{name}{thought}"
            said = (*turns[:-1], ("user", f"{turns[-1][1]} Try way {thought + 1}."))
            steps.append(cited(child, said, 16))
            if depth == DEPTH:
                yield child
            else:
                after = (*said, ("assistant", f"{{{child}}}"), ("user", "Question: {question} Think again."))
                yield from grow(child, after, depth + 1)

    leaves = list(grow("thought", first, 1))
    last = combined("answer", [f"{{{leaf}}}" for leaf in leaves])
    return Plan(("question", "passages"), (*steps, last), "answer")


SKELETON: Final = Plan(
    ("topic", "passages"),
    (
        Ask(
            "points",
            (("system", OUTLINE), ("user", "Passages:\n{passages}\n\nTopic: {topic}")),
            64,
            form=list[str],
        ),
        Each(
            "texts",
            "points",
            Plan(
                ("item", "topic", "passages"),
                (from_passages("text", "{passages}", "Tell me the {item} of {topic}."),),
                "text",
            ),
        ),
    ),
    "texts",
)
JSON_FIELDS: Final = Plan(
    ("text", "questions"),
    (Each("fields", "questions", Plan(("item", "text"), (brief("field", "{text}", "{item}"),), "field")),),
    "fields",
    frozenset({"questions"}),
)


def _chat(tokens: int) -> Plan:
    """Four turns of one conversation."""
    turns: list[tuple[str, str]] = []
    steps: list[Ask] = []
    for number in range(4):
        asked = (
            "Passages:\n{passages}\n\nQuestion: {question0}"
            if not number
            else f"Question: {{question{number}}}"
        )
        turns.append(("user", asked))
        steps.append(Ask(f"turn{number}", (("system", ANSWER), *turns), tokens))
        turns.append(("assistant", f"{{turn{number}}}"))
    inputs = ("passages", *(f"question{number}" for number in range(4)))
    return Plan(inputs, tuple(steps), tuple(step.name for step in steps))


# ---- cases


def _choices(world: World, count: int) -> list[Case]:
    rng, cases = world.rng("multi-choice"), []

    def one() -> tuple[str, str]:
        asked, right = world.numbered(rng, 2), rng.random() < 0.5
        proposed = asked.answer if right else world.numbered(rng, 2).answer
        verdict = "yes" if proposed == asked.answer else "no"
        return f"Passages:\n{asked.text}\n\nQuestion: {asked.question}\nProposed answer: {proposed}", verdict

    for _ in range(count):
        shots, asked = [one() for _ in range(SHOTS)], [one() for _ in range(CHOICES)]
        inputs = {f"shot{n}": text for n, (text, _) in enumerate(shots)}
        inputs |= {f"mark{n}": verdict for n, (_, verdict) in enumerate(shots)}
        cases.append(
            Case({"questions": [text for text, _ in asked], **inputs}, [verdict for _, verdict in asked])
        )
    return cases


def _proposals(world: World, count: int) -> list[Case]:
    rng, cases = world.rng("judge"), []
    for question in rng.sample(world.single, count):
        others = [other.answer for other in world.single if other.answer != question.answer]
        answers = [question.answer, *rng.sample(others, 5)]
        rng.shuffle(answers)
        verdicts = ["yes" if answer == question.answer else "no" for answer in answers]
        cases.append(Case({"question": question.text, "answers": answers}, verdicts))
    return cases


def _two_hops(world: World, count: int) -> list[Case]:
    asked = [question for question in world.corpus.questions if question.kind == "two_hop"]
    return [Case({"question": q.text}, q.answer) for q in world.rng("react").sample(asked, count)]


def _riddles(world: World, count: int) -> list[Case]:
    rng = world.rng("tree of thought")
    asked = [world.numbered(rng, 12) for _ in range(count)]
    return [Case({"question": one.question, "passages": one.text}) for one in asked]


def _articles(world: World, count: int) -> list[Case]:
    rng = world.rng("skeleton")
    subjects = rng.sample(world.corpus.subjects, count)
    cases = []
    for subject in subjects:
        texts = [placed.passage.text for placed in world.corpus.about(subject)]
        shown = "\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
        cases.append(Case({"topic": subject.name, "passages": shown}))
    return cases


def _extractions(world: World, count: int) -> list[Case]:
    rng, cases = world.rng("fields"), []
    for passage in rng.sample(world.opening, count):
        facts = rng.choices(passage.facts, k=FIELDS)
        questions = [worded(rng, fact.relation, fact.subject) for fact in facts]
        cases.append(
            Case({"text": passage.text, "questions": questions}, [fact.value.text for fact in facts])
        )
    return cases


def _talks(name: str) -> Callable[[World, int], list[Case]]:
    def talks(world: World, count: int) -> list[Case]:
        rng, cases = world.rng(name), []
        for _ in range(count):
            asked = world.numbered_many(rng, 12, 4)
            questions = {f"question{number}": one.question for number, one in enumerate(asked)}
            cases.append(Case({"passages": asked[0].text, **questions}))
        return cases

    return talks


WORKLOADS: Final = (
    Workload(
        "multi-choice",
        "SGLang",
        f"{CHOICES} questions of one token behind {SHOTS} examples",
        MULTI_CHOICE,
        _choices,
    ),
    Workload("ReAct", "SGLang", "think, search, think, search, finish", REACT, _two_hops),
    Workload(
        "tree of thought", "SGLang", "2, 4 and 8 thoughts, then one answer", _tree(), _riddles, Sizes(texts=4)
    ),
    Workload(
        "skeleton of thought",
        "SGLang",
        "an outline, then every point of it",
        SKELETON,
        _articles,
        Sizes(texts=4),
    ),
    Workload("LLM judge", "SGLang", "search, 6 verdicts on the same passages", LLM_JUDGE, _proposals),
    Workload("JSON fields", "SGLang", f"{FIELDS} fields of one text", JSON_FIELDS, _extractions),
    Workload("chat, short", "SGLang", "4 turns of up to 8 tokens", _chat(8), _talks("chat, short")),
    Workload(
        "chat, long", "SGLang", "4 turns of up to 64 tokens", _chat(64), _talks("chat, long"), Sizes(texts=4)
    ),
)
