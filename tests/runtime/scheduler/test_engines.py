"""Pools: the least loaded engine is found without a look at all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.scheduler.engines import EngineState, Pool, WorkerState
from weft.runtime.scheduler.events import EngineSpec
from weft.runtime.scheduler.primitive import EngineKey

KEY = EngineKey("tool", "t")


def load(engine: EngineState) -> float:
    return engine.load_ms + engine.active


STEPS = st.lists(
    st.tuples(st.sampled_from(("work", "rest", "load", "join", "lose", "look")), st.integers(0, 5)),
    max_size=80,
)


@given(STEPS)
def test_of_engines_with_room_the_least_loaded_is_found_whatever_has_changed(
    steps: list[tuple[str, int]],
) -> None:
    pool, engines, joined = Pool(KEY, load, {}), dict[int, EngineState](), 0
    for what, number in steps:
        engine = engines.get(number)
        if what == "join" and engine is None:
            joined += 1
            spec = EngineSpec("tool", "t", capacity=2)
            engines[number] = EngineState(spec, WorkerState(f"w{joined}", joined))
            pool.add(engines[number])
        elif what == "look":
            found = [one for one in engines.values() if one.has_room]
            best = min(found, key=lambda one: (load(one), one.worker.number), default=None)
            assert pool.least_loaded() is best
        elif engine is not None and what == "lose":
            pool.remove(engines.pop(number))
        elif engine is not None:
            if what == "load":
                engine.load_ms += 2.5
            else:
                engine.activate(1 if what == "work" else -min(engine.active, 1))
            engine.changed()
