"""The memory of the host tier: what was saved comes back, on whatever device there is."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.kv import host as host_module
from weft.runtime.kv.host import HostPool
from weft.runtime.kv.pool import KVPool

SLOTS, HOST = 12, 20
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make_pool(device: str, dtype: torch.dtype) -> KVPool:
    pool = KVPool.allocate(
        layers=3, slots=SLOTS, kv_heads=2, head_dim=4, dtype=dtype, device=torch.device(device)
    )
    pool.keys.copy_(torch.randn(pool.keys.shape))
    pool.values.copy_(torch.randn(pool.values.shape))
    return pool


SOME = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, HOST - 1)), max_size=SLOTS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(steps=st.lists(st.tuples(st.booleans(), SOME), max_size=8), piece=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_what_was_saved_is_loaded(
    device: str, dtype: torch.dtype, steps: list[tuple[bool, list[tuple[int, int]]]], piece: int
) -> None:
    """Against plain copies, at once; pieces of a few tokens, so that transfers take several."""
    pool = make_pool(device, dtype)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host_module, "_BUFFER_BYTES", piece * 2 * 3 * 2 * 4 * dtype.itemsize)
        tier = HostPool(pool, HOST)
    keys, values = pool.keys.cpu().clone(), pool.values.cpu().clone()
    saved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for saves, pairs in steps:
        by_slot = {slot: at for slot, at in pairs if saves or at in saved}
        pairs = list({at: slot for slot, at in by_slot.items()}.items())
        at = torch.tensor([at for at, _ in pairs], dtype=torch.int64).numpy()
        slots = torch.tensor([slot for _, slot in pairs], dtype=torch.int64).numpy()
        if saves:
            tier.save(slots, at)
            saved |= {at: (keys[:, slot].clone(), values[:, slot].clone()) for at, slot in pairs}
            pool.keys[:, slots] = 0  # at once: what is begun later must not reach what is saved
            keys[:, slots] = 0
        else:
            arrival = tier.load(at, slots)
            arrival.await_on_device()
            for where, slot in pairs:
                keys[:, slot], values[:, slot] = saved[where]
        assert torch.equal(pool.keys.cpu(), keys)
        assert torch.equal(pool.values.cpu(), values)
    tier.close()


def test_loading_more_takes_longer() -> None:
    tier = HostPool(make_pool("cpu", torch.float32), HOST)
    assert tier.slots == HOST
    assert 0 < tier.load_ms(1) <= tier.load_ms(1000)
    tier.close()


def test_memory_that_is_not_to_be_had_is_an_error() -> None:
    with pytest.raises(MemoryError, match="the host has no"):
        HostPool(make_pool("cpu", torch.float32), 1 << 50)


class Pinned:
    """A CUDA runtime that has no device: what it was told to pin, and has not been told to unpin."""

    def __init__(self) -> None:
        self.addresses: list[int] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.addresses.append(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.addresses.remove(address)
        return 0


def test_memory_is_unpinned_once_when_it_is_closed_or_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that fails while it starts forgets it; what stayed pinned could never be pinned again."""
    runtime = Pinned()
    monkeypatch.setattr(host_module, "_cuda_runtime", lambda: runtime)
    closed, forgotten = (host_module._Memory(4096, pinned=True) for _ in range(2))
    assert len(runtime.addresses) == 2
    closed.close()
    closed.close()
    assert len(runtime.addresses) == 1
    del closed
    assert len(runtime.addresses) == 1
    del forgotten
    gc.collect()
    assert runtime.addresses == []
