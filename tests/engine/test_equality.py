"""Native text is the target's own; FLy's decisions hold when scored again without a cache; neither
depends on the batch."""

from dataclasses import replace

import pytest
import torch
from transformers.cache_utils import DynamicCache

from fly.acceptance import Reason, Scores
from fly.acceptance.fly import FlyRule
from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.deciding import RuleDecider
from tests.crossing import mostly_slow
from tests.engine.watching import watch
from tests.models import (
    ARCHITECTURES,
    CONTEXT,
    WINDOW,
    Bytes,
    Tape,
    assert_same,
    blurred,
    generated,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

DRAFTERS = ("model", "multilevel", "ngram", "none")
TOKENS = 32
FLY = {"spd_k": 6, "win_len": 2, "entropy_thre": 0.3}


def config_of(drafter="model", **options):
    settings = {"spd_k": 5, "max_ngram_size": 3, "num_ngram_pred_tokens": 3, **options}
    settings["draft_length"] = "fixed"  # or lookups that do not pay would be given up
    if drafter == "none":
        return FLyConfig(use_sd=False, **settings)
    return FLyConfig(drafter=drafter, **settings)


def decoder(target, draft, config, batch_size, **options):
    return SpeculativeDecoder(
        target, draft, tiny_tokenizer(), config, batch_size=batch_size, **options
    )


def pooled(results):
    return sum((result.statistics for result in results), Statistics())


def counters(result):
    """A request's counters, without those that depend on neighbours: times, draft forwards."""
    counts = result.statistics.to_dict()
    return {k: v for k, v in counts.items() if k != "draft_forwards" and "seconds" not in k}


@pytest.mark.parametrize("batch_size", mostly_slow([3, 1, 8]))
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_native_text_equals_generate(kind, drafter, batch_size):
    target = tiny(kind)
    asked = prompts(9)[: 9 if batch_size > 1 else 4]
    assert TOKENS > 2 * WINDOW
    config = config_of(drafter, acceptance="native")
    results = decoder(target, blurred(target), config, batch_size).generate(
        asked, max_new_tokens=TOKENS
    )
    answers = [result.token_ids for result in results]
    assert_same(target, asked, answers, [generated(target, ids, TOKENS) for ids in asked])
    counts = pooled(results)
    assert counts.loose == 0
    if drafter in ("model", "multilevel"):
        assert counts.matched > 30
        assert counts.corrections > 5
        assert counts.bonuses > 2
    if drafter == "none":
        assert counts.plain == counts.emitted


def test_native_text_at_the_end_of_the_context():
    """Answers fill the context to its last position, with a draft that knows as many or fewer."""
    target = tiny("gpt2", max_position_embeddings=48)
    asked = (*prompts(3, longest=44), tuple(range(4, 51)))
    for draft in (blurred(target), tiny("gpt2", seed=1, max_position_embeddings=30)):
        for name in ("model", "multilevel", "ngram"):
            config = config_of(name, acceptance="native")
            requests = [Request(ids, 48 - len(ids)) for ids in asked]
            found = dict(decoder(target, draft, config, 4).decode(requests))
            want = [generated(target, ids, 48 - len(ids)) for ids in asked]
            assert_same(target, asked, [found[i].token_ids for i in range(4)], want)


def test_a_draft_of_another_architecture_and_vocabulary():
    target = tiny("llama")
    for draft in (tiny("gpt2", seed=2, vocab_size=130), tiny("gemma2", seed=2, vocab_size=70)):
        results = decoder(target, draft, config_of(acceptance="native"), 4).generate(
            prompts(5), max_new_tokens=12
        )
        want = [generated(target, ids, 12) for ids in prompts(5)]
        assert_same(target, prompts(5), [result.token_ids for result in results], want)


@pytest.mark.parametrize("name", ["model", "multilevel"])
def test_the_target_may_be_its_own_draft(name):
    target = tiny("qwen3")
    results = decoder(target, target, config_of(name, acceptance="native"), 4).generate(
        prompts(9), max_new_tokens=TOKENS
    )
    want = [generated(target, ids, TOKENS) for ids in prompts(9)]
    assert_same(target, prompts(9), [result.token_ids for result in results], want)
    counts = pooled(results)
    assert counts.corrections == 0, "a draft that is the target is never refused"
    assert counts.matched + counts.bonuses + counts.plain == counts.emitted + counts.trimmed


@pytest.mark.parametrize("variant", ["official", "paper", "vllm"])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2"]))
def test_fly_does_not_depend_on_the_batch(kind, variant):
    target = tiny(kind)
    config = config_of(fly_variant=variant, entropy="top3", **FLY)
    alone, together = (
        decoder(target, blurred(target), config, size).generate(prompts(9), max_new_tokens=TOKENS)
        for size in (1, 4)
    )
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.text for r in together] == [r.text for r in alone]
    assert [r.finish_reason for r in together] == [r.finish_reason for r in alone]
    assert [counters(r) for r in together] == [counters(r) for r in alone]
    assert pooled(alone).loose > 5


@pytest.mark.filterwarnings("ignore:.*copies the context")
@pytest.mark.parametrize("name", ["model", "ngram"])
def test_fly_behind_an_infinite_gate_is_native(name):
    target = tiny("llama")
    native, fly = (
        decoder(target, blurred(target), config_of(name, **FLY, acceptance=rule), 4)
        for rule in ("native", "fly")
    )
    fly._engine = replace(fly._engine, decider=RuleDecider(FlyRule(window=2, threshold=99.0)))
    answers = [d.generate(prompts(9), max_new_tokens=TOKENS) for d in (native, fly)]
    assert [r.token_ids for r in answers[1]] == [r.token_ids for r in answers[0]]
    assert pooled(answers[1]).loose == 0


@torch.inference_mode()
def rescored(target, ids, draft_ids):
    """A proposal's scores from one forward over the whole text, without a cache."""
    logits = target(torch.tensor([[*ids, *draft_ids]])).logits[:, len(ids) - 1 :]
    return Scores(logits, torch.tensor([draft_ids]), torch.tensor([len(draft_ids)]))


@pytest.mark.filterwarnings("ignore:.*loosen_copied")
@pytest.mark.parametrize("drafter", ["model", "multilevel", "ngram"])
@pytest.mark.parametrize(("kind", "variant"), [("mistral", "official"), ("gpt2", "paper")])
def test_every_round_holds_when_scored_from_scratch(kind, variant, drafter, monkeypatch):
    watched = watch(monkeypatch)
    target = tiny(kind)
    rule = {**FLY, "fly_variant": variant, "entropy": "top3", "loosen_copied": True}
    config = config_of(drafter, **rule, protect_special_tokens=False)
    followers = 1 if variant == "official" else 2
    results = decoder(target, blurred(target), config, 5, record_rounds=True).generate(
        prompts(8), max_new_tokens=TOKENS
    )
    loosened = 0
    for index, (prompt, result) in enumerate(zip(prompts(8), results, strict=True)):
        ids = list(prompt)
        for record, seen in zip(result.rounds, watched[index], strict=True):
            draft = record.draft_ids
            scores = rescored(target, ids, draft)
            assert seen.target_ids == scores.choice[0].tolist()
            assert record.native == scores.native[0].tolist()
            assert torch.allclose(torch.tensor(seen.entropy), scores.entropy("top3")[0], atol=1e-3)
            for i, reason in enumerate(record.reasons):
                if reason != Reason.LOOSE:
                    assert record.accepted[i] == (reason == Reason.MATCH) == record.native[i]
                    continue
                assert not record.native[i]
                assert scores.entropy("top3")[0, i] > 0.3 - 1e-4
                assert i + 2 < len(draft)
                assert all(record.native[i + 1 : i + 1 + followers])
            kept = [*record.accepted, False].index(False)
            assert record.emitted_ids == [*draft[:kept], seen.target_ids[kept]]
            loosened += record.reasons[:kept].count(Reason.LOOSE)
            ids += record.emitted_ids
        assert ids[: len(prompt) + len(result.token_ids)] == [*prompt, *result.token_ids]
    assert loosened > 5 or drafter == "ngram"


@pytest.mark.parametrize(
    "settings",
    [FLY, {**FLY, "win_len": 4}, {**FLY, "abla_no_window": True}, {"acceptance": "native"}],
    ids=["W2", "W4", "no window", "native"],
)
def test_a_smaller_budget_gives_a_prefix(settings):
    """Proposals near the budget are shortened; what is kept of them must not show it."""
    target = tiny("llama")
    engine = decoder(target, blurred(target), config_of(**settings), 5)
    long = engine.generate(prompts(5), max_new_tokens=62)
    for budget in range(1, 13):
        short = engine.generate(prompts(5), max_new_tokens=budget)
        for a, b in zip(short, long, strict=True):
            assert a.token_ids == b.token_ids[:budget]


def test_a_smaller_budget_gives_a_prefix_at_the_end_of_the_context():
    target = tiny("llama", max_position_embeddings=60)
    engine = decoder(target, blurred(target), config_of(**FLY), 3)
    asked = [tuple(range(10, 10 + n)) for n in (40, 44, 47)]
    long = dict(engine.decode([Request(ids, 60 - len(ids)) for ids in asked]))
    for less in range(1, 12):
        short = dict(engine.decode([Request(ids, 60 - len(ids) - less) for ids in asked]))
        for i in range(3):
            budget = 60 - len(asked[i]) - less
            assert short[i].token_ids == long[i].token_ids[:budget]


@pytest.mark.filterwarnings("ignore:.*loosen_copied")
def test_proposals_end_with_the_context():
    """Nothing is judged at a position that the target does not know, window or not."""
    target = Tape("ab" * 40, context=40)
    config = FLyConfig(drafter="ngram", spd_k=12, win_len=4, loosen_copied=True)
    engine = SpeculativeDecoder(target, None, Bytes(), config, record_rounds=True)
    prompt = ids_of("abab")
    [result] = engine.generate([prompt], max_new_tokens=36)
    assert len(result.token_ids) == 36
    length = len(prompt)
    for record in result.rounds:
        assert length + len(record.draft_ids) <= 40
        length += len(record.emitted_ids)


@torch.inference_mode()
def fresh_states(model, ids):
    """Keys and values of every layer after one forward over the text, each [H, T, D]."""
    cache = DynamicCache()
    model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return [states[0] for layer in cache.layers for states in (layer.keys, layer.values)]


@pytest.mark.parametrize("drafter", ["model", "multilevel"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_rewound_cache_equals_a_fresh_prefill(kind, drafter):
    """After rounds of refusals, retirements, moves and refills every slot holds its position."""
    engine = decoder(tiny(kind), blurred(tiny(kind)), config_of(drafter, **FLY), 4)
    compared = compare_slots(engine)
    list(engine.decode([Request(ids, 6 + 3 * i) for i, ids in enumerate(prompts(9))]))
    assert len(compared) > 30


def compare_slots(engine):
    """From now on, hold what both models' slots hold after each round against fresh forwards; the
    rows compared are in the list returned.
    """
    retire, compared = engine._retire, []
    draft = engine._models.pair.draft

    def retire_and_compare(scheduler):
        finished = retire(scheduler)
        held = [(engine._target, index, row.ids[:-1]) for index, row in enumerate(scheduler.rows)]
        if draft is not None:
            # The draft may lack its last proposed token, which opens its next round again.  Its
            # rows move when they are next read.
            alive = {row.index: row for row in scheduler.rows}
            placed = enumerate(engine.drafter.reader._placed)
            held += [(draft, place, alive[at].ids[:-2]) for place, at in placed if at in alive]
        for slots, place, ids in held:
            if ids:
                assert_slots(slots, place, ids)
                compared.append(place)
        return finished

    engine._retire = retire_and_compare
    return compared


def assert_slots(slots, row, ids):
    """The row's cache holds what a fresh forward over `ids` computes."""
    layers = slots.cache.layers
    held = [buffer[row, :, : len(ids)] for layer in layers for buffer in layer.buffers]
    for buffer, states in zip(held, fresh_states(slots.model, ids), strict=True):
        assert torch.allclose(buffer, states, atol=1e-3)


def test_a_decoder_may_be_used_again():
    target = tiny("llama")
    engine = decoder(target, blurred(target), config_of(**FLY), 3)
    first = engine.generate(prompts(9), max_new_tokens=20)
    engine.generate(prompts(5, seed=9), max_new_tokens=50)
    again = engine.generate(prompts(9), max_new_tokens=20)
    assert [r.token_ids for r in again] == [r.token_ids for r in first]


def test_results_come_in_the_order_of_the_prompts():
    target = tiny("llama")
    engine = decoder(target, None, config_of("none"), 3)
    requests = [Request(ids, 1 + i % 4, key=f"k{i}") for i, ids in enumerate(prompts(9))]
    found = dict(engine.decode(requests))
    assert sorted(found) == list(range(9))
    for i, request in enumerate(requests):
        assert found[i].key == request.key
        assert found[i].token_ids == generated(target, request.prompt_ids, request.max_new_tokens)


def test_texts_are_encoded_and_decoded():
    target, tokenizer = tiny("llama"), tiny_tokenizer()
    engine = decoder(target, None, config_of("none"), 3)
    text = "abc the 9\n"
    by_text, by_ids = engine.generate([text, tokenizer(text).input_ids], max_new_tokens=12)
    assert by_text.token_ids == by_ids.token_ids
    assert by_text.text == tokenizer.decode(by_text.token_ids, skip_special_tokens=True)


def test_no_prompts_no_results():
    engine = decoder(tiny("llama"), None, config_of("none"), 3)
    assert engine.generate([]) == []
    assert engine.max_context == CONTEXT


def test_long_prompts_are_prefilled_in_pieces(monkeypatch):
    """Pieces of the prefill are smaller than the prompts, and rows fewer than the batch."""
    monkeypatch.setattr("fly.engine.model.slots.PREFILL_TOKENS", 16)
    target = tiny("gemma2")
    config = config_of(acceptance="native")
    results = decoder(target, blurred(target), config, 4).generate(prompts(9), max_new_tokens=15)
    want = [generated(target, ids, 15) for ids in prompts(9)]
    assert_same(target, prompts(9), [result.token_ids for result in results], want)
