"""Nodes as the scheduler sees them."""

from __future__ import annotations

import weakref

from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed
from weft.runtime.scheduler.primitive import describe

from .conftest import node


class Text(str):
    """A text of which it can be told whether anybody has it still."""


def test_the_text_of_a_prompt_is_not_kept_with_its_digests() -> None:
    text = Text("once upon a time")
    known = weakref.ref(text)
    (primitive,) = describe([node(0, Prefill("m", (Fixed(text),)))])
    assert primitive.adds
    del text, primitive
    assert known() is None
