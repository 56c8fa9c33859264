"""A kind of cache in a file: buffers that stay in place and shapes that repeat, as captured graphs
need them.  It enters the registry, and the engine serves it without another change."""

import pytest

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from fly.engine.model.kv_cache import SlotLayer
from fly.engine.model.probe import CACHE_KINDS, CacheKind, deviation, probe
from fly.engine.model.slots import SPARE_SLOTS, SlotModel
from tests.models import CONTEXT, assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

BUCKET = 64
TOKENS = 32


class StaticSlotModel(SlotModel):
    """Attention sees buckets of keys; buffers move only where room is reserved."""

    kv_bucket, max_reserved = BUCKET, 4 * CONTEXT

    def __init__(self, model, common_vocab=None, **options):
        super().__init__(model, common_vocab, **options)
        self.kv_lens, self.drafted, self.buffers, self.moves = set(), [], None, 0

    def reserve(self, num_rows, longest):
        super().reserve(num_rows, longest)
        self.kv_lens, self.buffers = set(), None  # what the probe did was not reserved

    def extend(self, ids, starts):
        logits = super().extend(ids, starts)
        self.kv_lens.add(self.cache.mapping.kv_len)
        buffers = [buffer.data_ptr() for layer in self.cache.layers for buffer in layer.buffers]
        self.moves += self.buffers not in (None, buffers)
        self.buffers = buffers
        return logits

    def draft(self, ids, counts, starts, k, *rest):
        self.drafted.append(k)
        return super().draft(ids, counts, starts, k, *rest)


STATIC = CacheKind("static", StaticSlotModel, (deviation,))


@pytest.fixture
def _registered(monkeypatch):
    monkeypatch.setattr("fly.engine.model.probe.CACHE_KINDS", [STATIC, *CACHE_KINDS])
    monkeypatch.setattr("fly.engine.model.load.probe", probe)  # not what was found without it


def decoder(kind, batch_size, **settings):
    target = tiny(kind)
    config = FLyConfig(spd_k=5, draft_length="fixed", **settings)
    return SpeculativeDecoder(
        target, blurred(target), tiny_tokenizer(), config, batch_size=batch_size
    )


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "settings", [{}, {"drafter": "multilevel"}, {"tree_verify": True}], ids=str
)
@pytest.mark.parametrize("kind", ["gemma2", "gpt2"])
def test_native_text_equals_generate(kind, settings, batch_size):
    """Ragged prompts and budgets; rows end at different times and others take their place."""
    asked = prompts(9)[: 9 if batch_size > 1 else 4]
    budgets = [TOKENS - 3 * index for index in range(len(asked))]
    engine = decoder(kind, batch_size, acceptance="native", **settings)
    assert engine.served["target"] == engine.served["draft"] == "static"
    requests = [Request(ids, budget) for ids, budget in zip(asked, budgets, strict=True)]
    found = dict(engine.decode(requests))
    answers = [found[index].token_ids for index in range(len(asked))]
    want = [generated(tiny(kind), *each) for each in zip(asked, budgets, strict=True)]
    assert_same(tiny(kind), asked, answers, want)
    for model in (engine.pair.target, engine.pair.draft):
        assert model.kv_lens <= {BUCKET, 2 * BUCKET}
        assert model.moves == 0, "room was not reserved ahead"
    if not settings:
        # One call on the draft a round in which something is drafted.
        rounds = max(len(result.round_lens) for result in found.values())
        assert len(engine.pair.draft.drafted) >= rounds
        assert set(engine.pair.draft.drafted) <= set(range(1, 6))


@pytest.mark.usefixtures("_registered")
def test_fly_accepts_what_it_accepts_on_other_caches():
    fly = {"win_len": 2, "entropy_thre": 0.3}
    static = decoder("llama", 4, **fly)
    assert isinstance(static._target, StaticSlotModel)
    results = static.generate(prompts(9), max_new_tokens=TOKENS)
    plain = SpeculativeDecoder(
        SlotModel(tiny("llama")),
        SlotModel(blurred(tiny("llama"))),
        tiny_tokenizer(),
        static.config,
        batch_size=4,
    )
    want = plain.generate(prompts(9), max_new_tokens=TOKENS)
    assert [result.token_ids for result in results] == [result.token_ids for result in want]
    assert [result.origins for result in results] == [result.origins for result in want]


def test_room_is_reserved_for_the_longest_row():
    model = SlotModel(tiny("llama"))
    model.reserve(3, 50)
    assert (model.cache.num_rows, model.cache.capacity) == (3, 50 + SPARE_SLOTS)
    model.reserve(2, 10**6)
    assert (model.cache.num_rows, model.cache.capacity) == (3, CONTEXT + SPARE_SLOTS)
    static = StaticSlotModel(tiny("llama"))
    static.reserve(1, 50)
    assert static.cache.capacity == 2 * BUCKET


@pytest.mark.parametrize("batch_size", [1, 4])
def test_buffers_stay_in_place_while_rows_decode(batch_size, monkeypatch):
    """With the cache that is usual, too; only reserving makes room."""
    engine = decoder("llama", batch_size, acceptance="native")
    grown, grow = [], SlotLayer.grow
    monkeypatch.setattr(
        SlotLayer, "grow", lambda layer: (grown.append(bool(layer.buffers)), grow(layer))
    )
    assert len(engine.generate(prompts(9), max_new_tokens=TOKENS)) == 9
    assert not any(grown)
