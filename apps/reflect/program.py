"""Write a draft, let critics read it, and revise it until a judge finds nothing left to change."""

from __future__ import annotations

from typing import Any, Final, Literal

from weft import Static, Var, gen, loop, program

WRITE: Final = "Do the task. Reply with the text alone."
CRITICIZE: Final = "You are a critic who looks at {aspect}. Say in one sentence what has to change."
ACCEPT: Final = "Judge whether the text needs to be changed for these remarks. Reply yes or no."
REVISE: Final = "Rewrite the text so that the remarks no longer apply. Reply with the text alone."
ASPECTS: Final = ("facts and logic", "style and length")

State = tuple[Var[str], Any]  # the text, and whether the one before needed to be changed


@program
def reflect(task: str, rounds: Static[int] = 3, tokens: Static[int] = 200) -> str:
    """A text for `task`, revised at most `rounds` times."""

    def revise(state: State) -> State:
        read = f"Task: {task}\nText: {state[0]}"
        remarks = [
            gen(read, system=CRITICIZE.format(aspect=aspect), max_tokens=48, stop="\n", name="critic")
            for aspect in ASPECTS
        ]
        asked = f"{read}\nRemarks:\n" + "\n".join(f"- {remark}" for remark in remarks)
        needed = gen(asked, system=ACCEPT, type=Literal["yes", "no"], max_tokens=4, name="judge")
        return gen(asked, system=REVISE, max_tokens=tokens, name="revise"), needed

    draft = gen(f"Task: {task}", system=WRITE, max_tokens=tokens, name="draft")
    start: State = (draft, "yes")
    text, _ = loop(revise, start, until=lambda state: state[1].equals("no"), limit=rounds)
    return text
