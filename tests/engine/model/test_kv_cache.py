"""The slot cache: what is written at a slot stays there until it is written again."""

import gc
import random
import weakref

import pytest
import torch

from fly.engine.model.capture import CapturedModel
from fly.engine.model.kv_cache import SlotCache, SlotMapping
from fly.engine.model.slots import SlotModel
from tests.engine.replaying import RecordedGraphs
from tests.models import tiny

HEADS, SIZE = 2, 3


def states(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, tokens, SIZE, generator=torch.Generator().manual_seed(seed))


def write(cache, first, slots, kv_len, seed=0, value_size=SIZE, is_even=False):
    """Write random keys and values through layer 0; returns both and the views that came back."""
    start = max(row[0] for row in slots)
    slots = torch.tensor(slots)
    cache.write_at(SlotMapping(slots, first, start, kv_len, is_even))
    keys, values = states(*slots.shape, seed), states(*slots.shape, seed + 1)[..., :value_size]
    return keys, values, cache.update(keys, values, 0)


def test_writes_land_in_their_slots():
    cache = SlotCache(1)
    keys, values, (seen_keys, seen_values) = write(cache, 0, [[0, 1], [3, 4]], 5)
    assert seen_keys.shape == (2, HEADS, 5, SIZE)
    for row, start in enumerate((0, 3)):
        assert torch.equal(seen_keys[row, :, start : start + 2], keys[row])
        assert torch.equal(seen_values[row, :, start : start + 2], values[row])
    assert not seen_keys[0, :, 2:].any(), "what was never written is zero, not garbage"


def test_even_writes_are_the_same_writes():
    caches = SlotCache(1), SlotCache(1)
    for cache, is_even in zip(caches, (False, True), strict=True):
        write(cache, 0, [[0, 1, 2]] * 3, 3, seed=4)
        write(cache, 1, [[2, 3]] * 2, 4, seed=5, is_even=is_even)
    (old, _), (new, _) = (cache.layers[0].buffers for cache in caches)
    assert torch.equal(old, new)
    assert new[1:, :, 2:4].all()


def test_keys_and_values_may_differ_in_size():
    _, values, (keys, seen) = write(SlotCache(1), 0, [[0, 1]], 2, value_size=1)
    assert keys.shape[-1] == SIZE
    assert torch.equal(seen, values)


def test_layers_do_not_share():
    cache = SlotCache(2)
    write(cache, 0, [[0]], 1)
    keys = states(1, 1, 7)
    cache.update(keys, keys, 1)
    assert not torch.equal(cache.layers[0].buffers[0], cache.layers[1].buffers[0])
    assert torch.equal(cache.layers[1].buffers[0][:1, :, :1], keys)


def test_growing_keeps_what_is_there():
    cache = SlotCache(1)
    keys, _, _ = write(cache, 0, [[0, 1, 2]], 3)
    more, _, (seen, _) = write(cache, 1, [[3], [9]], 10, seed=5)
    buffer = cache.layers[0].buffers[0]
    assert torch.equal(buffer[0, :, :3], keys[0])
    assert torch.equal(seen[1, :, 9], more[1, :, 0])
    assert seen.shape == (2, HEADS, 10, SIZE), "only the rows written are seen"


def test_capacity_doubles():
    cache = SlotCache(1)
    capacities = set()
    for slot in range(100):
        write(cache, 0, [[slot]], slot + 1)
        capacities.add(cache.capacity)
    assert capacities == {1, 2, 4, 8, 16, 32, 64, 128}


def test_capacity_hardly_passes_what_rows_can_reach():
    cache = SlotCache(1, longest=40)
    capacities = set()
    for slot in range(45):  # padding writes a little further
        write(cache, 0, [[slot]], slot + 1)
        capacities.add(cache.capacity)
    assert capacities == {1, 2, 4, 8, 16, 32, 40, 41, 42, 43, 44, 45}


def test_room_is_there_before_the_next_forward():
    """Slots are copied into new rows first."""
    cache = SlotCache(1)
    write(cache, 0, [[0, 1]], 2)
    cache.reserve(5, 9)
    assert cache.layers[0].buffers[0].shape == (5, HEADS, 9, SIZE)
    cache.copy_row(0, 4, 2)


def test_sizes_as_attention_asks_for_them():
    cache = SlotCache(1)
    write(cache, 0, [[4, 5], [0, 1]], 6)
    assert cache.get_seq_length() == 4
    assert cache.get_mask_sizes(2, 0) == (6, 0)


def test_a_copied_row_is_its_first_slots_and_zeros():
    cache = SlotCache(2)
    for layer in range(2):
        cache.write_at(SlotMapping(torch.arange(4).expand(3, 4), 0, 0, 4))
        cache.update(states(3, 4, layer), states(3, 4, layer + 9), layer)
    before = [[b.clone() for b in layer.buffers] for layer in cache.layers]
    cache.copy_row(2, 0, 3)
    for layer, olds in zip(cache.layers, before, strict=True):
        for buffer, old in zip(layer.buffers, olds, strict=True):
            assert torch.equal(buffer[0, :, :3], old[2, :, :3])
            assert not buffer[0, :, 3].any(), "not what another request has left there"
            assert torch.equal(buffer[1:], old[1:])


def test_cleared_caches_start_from_zeros():
    cache = SlotCache(1)
    write(cache, 0, [[0, 1], [3, 4]], 5)
    cache.clear()
    keys, _, (seen, _) = write(cache, 0, [[2]], 5)
    assert torch.equal(seen[0, :, 2], keys[0, :, 0])
    assert not seen[:, :, [0, 1, 3, 4]].any()


def test_equals_a_dictionary_of_slots():
    """Random writes, moves and growth; what a row wrote last at a slot is what it sees there."""
    fate = random.Random(0)
    cache, known = SlotCache(1), {}
    for turn in range(60):
        first, rows, tokens = fate.randrange(3), fate.randrange(1, 4), fate.randrange(1, 4)
        starts = [fate.randrange(12) for _ in range(rows)]
        slots = [[start + i for i in range(tokens)] for start in starts]
        keys, _, (seen, _) = write(cache, first, slots, max(starts) + tokens, seed=turn)
        for row in range(rows):
            for i, slot in enumerate(slots[row]):
                known[first + row, slot] = keys[row, :, i]
        for row in range(rows):
            for slot in range(seen.shape[2]):
                want = known.get((first + row, slot), torch.zeros(HEADS, SIZE))
                assert torch.equal(seen[row, :, slot], want)
        if fate.random() < 0.3:
            source, destination = fate.sample(range(first + rows + 1), 2)
            if max(source, destination) < cache.num_rows:
                length = fate.randrange(8)
                cache.copy_row(source, destination, length)
                nothing = torch.zeros(HEADS, SIZE)
                for slot in range(cache.capacity):
                    copied = known.get((source, slot), nothing) if slot < length else nothing
                    known[destination, slot] = copied


@pytest.fixture
def _without_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@torch.inference_mode()
@pytest.mark.usefixtures("_without_collection")
@pytest.mark.parametrize("is_captured", [False, True])
def test_buffers_go_with_their_model(is_captured):
    """Nothing waits for the garbage to be collected: a process may make many decoders."""
    graphs = RecordedGraphs()
    model = CapturedModel(tiny("llama"), graphs=graphs) if is_captured else SlotModel(tiny("llama"))
    model.prefill([[5, 6, 7]], 0)
    for _ in range(3):
        model.steps(torch.tensor([[8]]), [1], [3], 4)
    assert graphs.num_captured == (2 if is_captured else 0)
    # The recorder of operations keeps tensors in circles of its own, as no device's graph does.
    owner = weakref.ref(model.cache if is_captured else model.cache.all_buffers[0])
    del model
    assert owner() is None
