"""What is remembered of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.ops.common import Format, Tool
from weft.runtime.scheduler.primitive import describe
from weft.runtime.scheduler.state import DONE, LiveRun

from .conftest import EMBED, node

OPS = (EMBED, Format(()), Tool("ask"))


@given(
    st.lists(st.tuples(st.sampled_from(("add", "replace", "revise", "done")), st.integers(0, 7)), max_size=60)
)
def test_the_work_that_is_left_is_that_of_all_nodes_that_are_not_done(steps: list[tuple[str, int]]) -> None:
    run = LiveRun("r", 0.0)
    for step, (what, number) in enumerate(steps):
        ms = 10.0 + step
        live = run.nodes.get(number)
        unfinished = live is not None and live.phase is not DONE
        if (what == "add" and live is None) or (what == "replace" and unfinished):
            run.add(describe([node(number, OPS[step % 3])], {number: Forecast(ms)}))
        elif what == "revise" and live is not None:
            run.revise({number: Forecast(ms)})
        elif what == "done" and live is not None and unfinished:
            run.complete(live)
        left = [one for one in run.nodes.values() if one.phase is not DONE]
        works = [one for one in left if one.primitive.key.kind != "tool"]
        assert run.work_ms == pytest.approx(sum(one.primitive.forecast.ms for one in works))
