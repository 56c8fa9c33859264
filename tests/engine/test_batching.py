"""Answers do not depend on batch size, order or neighbours; memory that runs out costs none."""

import copy
import random

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from fly.engine.model.kv_cache import SlotLayer
from fly.engine.model.slots import SlotModel
from fly.errors import DecodingError, FLyWarning
from tests.crossing import mostly_slow
from tests.models import VOCAB, assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

FLY = {"spd_k": 6, "win_len": 2, "entropy_thre": 0.3}


def decoder(target, draft, batch_size, drafter="model", **options):
    settings = {**FLY, "drafter": drafter, **options.pop("settings", {})}
    return SpeculativeDecoder(
        target, draft, tiny_tokenizer(), FLyConfig(**settings), batch_size=batch_size, **options
    )


def requests_of_all_kinds(count):
    """Prompts of 1 to 110 tokens, every other behind a shared beginning, with limits and stops of
    their own.
    """
    fate = random.Random(7)
    shots = [fate.randrange(4, VOCAB) for _ in range(60)]
    requests = []
    for index in range(count):
        own = [fate.randrange(4, VOCAB) for _ in range(fate.randint(1, 50))]
        prompt = [*shots, *own] if index % 2 else own
        stop = fate.choice(((), ("a",), ("ing", " the")))
        requests.append(Request(tuple(prompt), fate.randint(1, 48), stop, key=str(index)))
    return requests


def test_64_requests_in_any_order_and_batch():
    target = tiny("llama")
    requests = requests_of_all_kinds(64)
    want = None
    for batch_size in (1, 2, 5, 16):
        order = random.Random(batch_size).sample(range(64), 64)
        engine = decoder(target, blurred(target), batch_size)
        results = dict(engine.decode([requests[index] for index in order]))
        answers = {
            results[place].key: (results[place].token_ids, results[place].finish_reason)
            for place in range(64)
        }
        want = want or answers
        assert answers == want
    assert {reason for _, reason in want.values()} == {"length", "stop", "eos"}


class Counting:
    """Counts the prompt tokens that go through a model's forwards of more than `width` tokens."""

    def __init__(self, model, monkeypatch):
        self.tokens = 0
        forward = model.forward

        def counted(*args, **kwargs):
            self.tokens += kwargs["input_ids"].numel()
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2"]))
def test_a_shared_beginning_is_computed_once(kind, batch_size, monkeypatch):
    target = tiny(kind, seed=4)
    shots = prompts(2, longest=60, seed=11)[0] * 60
    asked = [(*shots[:100], *own) for own in prompts(12, longest=8)]
    counts, answers = [], []
    for share in (True, False):
        engine = decoder(target, None, batch_size, "none", share_prefixes=share)
        with monkeypatch.context() as patch:
            counting = Counting(target, patch)
            results = engine.generate(asked, max_new_tokens=4)
        counts.append(counting.tokens)
        answers.append([result.token_ids for result in results])
    assert answers[0] == answers[1]
    assert_same(target, asked, answers[0], [generated(target, ids, 4) for ids in asked])
    assert counts[1] - counts[0] >= 11 * 100


def test_repeated_and_extended_prompts_share_too():
    target = tiny("qwen3")
    base = prompts(2, longest=60, seed=5)[0] * 60
    asked = [base[:n] for n in (40, 70, 70, 100, 100, 39)]
    engine = decoder(target, blurred(target), 2, settings={"acceptance": "native"})
    for _ in range(2):  # the second time on what the first has left
        answers = [result.token_ids for result in engine.generate(asked, max_new_tokens=20)]
        assert_same(target, asked, answers, [generated(target, ids, 20) for ids in asked])


def test_slots_are_copied_into_rows_that_did_not_exist():
    target = tiny("llama")
    prompt = (prompts(2, longest=60, seed=5)[0] * 60)[:50]
    engine = decoder(target, blurred(target), 8, settings={"acceptance": "native"})
    for count in (1, 2, 5):
        results = engine.generate([prompt] * count, max_new_tokens=12)
        want = generated(target, prompt, 12)
        assert_same(target, [prompt] * count, [r.token_ids for r in results], [want] * count)


def test_a_batch_that_grows_copies_from_its_rows(monkeypatch):
    monkeypatch.setattr("fly.engine.admission.WORTHWHILE", 0)
    target = tiny("llama")
    shots = (prompts(2, longest=60, seed=5)[0] * 60)[:50]
    asked = [(*shots, *own) for own in prompts(60, longest=20)]
    engine = decoder(target, None, "auto", "none", max_batch_size=32)
    answers = [result.token_ids for result in engine.generate(asked, max_new_tokens=12)]
    assert engine.batch_size.rows == 32
    assert_same(target, asked, answers, [generated(target, ids, 12) for ids in asked])


def test_an_interrupted_prefill_leaves_nothing_to_copy(monkeypatch):
    target = tiny("llama")
    base = prompts(2, longest=60, seed=5)[0] * 60
    engine = decoder(target, None, 1, "none")
    engine.generate([base[:60]], max_new_tokens=2)
    monkeypatch.setattr("fly.engine.model.slots.PREFILL_TOKENS", 16)
    forward, calls = target.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate([tuple(reversed(base[:90]))], max_new_tokens=2)
    [result] = engine.generate([base[:70]], max_new_tokens=20)
    assert_same(target, [base[:70]], [result.token_ids], [generated(target, base[:70], 20)])


class Cramped:
    """Lets a model run out of memory above so many tokens at once."""

    def __init__(self, model, monkeypatch, most):
        self.failures = 0
        forward = model.forward

        def cramped(*args, **kwargs):
            if kwargs["input_ids"].shape[0] > most:
                self.failures += 1
                raise torch.OutOfMemoryError("out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", cramped)


@pytest.mark.parametrize("short_of_memory", ["target", "draft"])
@pytest.mark.parametrize("most", mostly_slow([1, 3]))
def test_out_of_memory_halves_the_batch(short_of_memory, most, monkeypatch):
    target = tiny("llama")
    draft = blurred(target)
    requests = requests_of_all_kinds(20)
    want = dict(decoder(target, draft, 1).decode(requests))
    engine = decoder(target, draft, 8)
    with monkeypatch.context() as patch:
        cramped = Cramped(draft if short_of_memory == "draft" else target, patch, most)
        with pytest.warns(FLyWarning, match="out of memory") as told:
            found = dict(engine.decode(requests))
    assert str(told[0].message) == "out of memory with 8 rows; going on with at most 4"
    assert engine.batch_size.rows == (2 if most == 3 else 1)
    assert cramped.failures == (2 if most == 3 else 3)
    assert {i: r.token_ids for i, r in found.items()} == {i: r.token_ids for i, r in want.items()}
    assert [found[i].statistics.rounds for i in range(20)] == [
        want[i].statistics.rounds for i in range(20)
    ]


def test_out_of_memory_in_the_middle_loses_nothing(monkeypatch):
    """Rows that have decoded a part are prefilled again with what they have."""
    target = tiny("llama")
    asked = prompts(6)
    want = [generated(target, ids, 40) for ids in asked]
    engine = decoder(target, blurred(target), 4, settings={"acceptance": "native"})
    calls = []
    forward = target.forward

    def failing_once(*args, **kwargs):
        calls.append(kwargs["input_ids"].shape)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, "forward", failing_once)
        with pytest.warns(FLyWarning, match="going on with at most 2"):
            results = engine.generate(asked, max_new_tokens=40)
    assert_same(target, asked, [result.token_ids for result in results], want)


@pytest.mark.parametrize("step", ["observe", "commit"])
def test_out_of_memory_behind_the_decision_spoils_no_finished_answer(step, monkeypatch):
    target = tiny("llama")
    asked = prompts(8)
    want = [generated(target, ids, 20 + i) for i, ids in enumerate(asked)]
    engine = decoder(target, blurred(target), 4, settings={"acceptance": "native"})
    original = getattr(engine.drafter, step)
    failures = []

    def failing_once(*given):
        rows = engine._models.owner.rows
        ends = any(row.remaining <= 6 for row in rows)
        if ends and not failures and (step == "observe" or any(r.finish_reason for r in rows)):
            failures.append(1)
            raise torch.OutOfMemoryError("out of memory")
        return original(*given)

    monkeypatch.setattr(engine.drafter, step, failing_once, raising=False)
    requests = [Request(ids, 20 + i) for i, ids in enumerate(asked)]
    with pytest.warns(FLyWarning, match="out of memory"):
        results = dict(engine.decode(requests))
    assert failures
    assert_same(target, asked, [results[i].token_ids for i in range(8)], want)


def test_a_last_long_answer_gets_caches_of_its_own_size(monkeypatch):
    """One row does not fit into caches that were made for eight; the next call gets eight again."""
    target = tiny("llama")
    ids = prompts(2, longest=20)[0]
    asked = [*[Request(ids, 6 + i) for i in range(7)], Request(ids, 120)]
    want = dict(decoder(target, None, 1, "none").decode(asked))
    grow = SlotLayer.grow

    def cramped(layer):
        if layer._owner.num_rows * layer._owner.capacity > 8 * 64:
            raise torch.OutOfMemoryError("out of memory")
        grow(layer)

    monkeypatch.setattr(SlotLayer, "grow", cramped)
    monkeypatch.setattr(SlotModel, "max_reserved", 0)  # nothing is as small as this memory
    engine = decoder(target, None, 8, "none")
    with pytest.warns(FLyWarning, match="out of memory with 1 rows; making caches anew that had 8"):
        found = dict(engine.decode(asked))
    assert all(found[i].token_ids == want[i].token_ids for i in range(8))
    assert engine.batch_size.rows == 8


@pytest.mark.parametrize("rule", ["native", "fly"])
def test_a_draft_that_breaks_down_spoils_no_other_request(rule):
    target = tiny("llama", eos_token_id=None)
    draft = copy.deepcopy(blurred(target))
    with torch.no_grad():
        draft.model.embed_tokens.weight[77] = torch.nan
    settings = {"acceptance": rule, "win_len": 1, "entropy_thre": 0.0}
    asked = [tuple(range(4, 64)), *(ids for ids in prompts(6) if 77 not in ids)]
    broken = (5, 6, 77, 8, 9, 10) * 12
    alone, behind = (
        decoder(target, draft, 3, settings=settings).generate([*first, *asked], max_new_tokens=20)
        for first in ([], [broken])
    )
    for one, other in zip(alone, behind[1:], strict=True):
        assert one.token_ids == other.token_ids
        assert one.statistics.matched == other.statistics.matched


def test_out_of_memory_with_one_row_is_told(monkeypatch):
    target = tiny("llama")
    engine = decoder(target, None, 1, "none")
    with monkeypatch.context() as patch:
        Cramped(target, patch, 0)
        with pytest.raises(DecodingError, match="out of memory with a single row, request 0"):
            engine.generate(prompts(2), max_new_tokens=4)
    assert engine._target.cache.capacity == 0, "room for the long request would be asked for again"
    assert len(engine.generate(prompts(2), max_new_tokens=4)) == 2, "it can be used again"


def test_verbose_logs_every_round(caplog):
    caplog.set_level("INFO", logger="fly.engine.step")
    target = tiny("llama")
    engine = decoder(target, blurred(target), 2, settings={"verbose": True})
    results = engine.generate(prompts(3), max_new_tokens=9)
    rounds = sum(result.statistics.rounds + result.statistics.plain for result in results)
    assert len(caplog.records) == rounds
    assert "request 0, round 0: kept " in caplog.text
    caplog.clear()
    decoder(target, blurred(target), 2).generate(prompts(3), max_new_tokens=9)
    assert not caplog.records


@pytest.mark.parametrize("batch_size", mostly_slow(["auto", "auto:3"]))
def test_automatic_batches_give_the_same_answers(batch_size):
    target = tiny("llama")
    requests = requests_of_all_kinds(40)
    want = dict(decoder(target, blurred(target), 1).decode(requests))
    engine = decoder(target, blurred(target), batch_size, max_batch_size=32)
    found = dict(engine.decode(requests))
    assert {i: r.token_ids for i, r in found.items()} == {i: r.token_ids for i, r in want.items()}
    assert 8 <= engine.batch_size.rows <= 32


@pytest.mark.parametrize("drafter", ["model", "multilevel", "ngram", "none"])
def test_an_answer_goes_on_from_what_was_decoded_before(drafter):
    """Only the new rounds are counted; the budget is that of the whole answer."""
    target, settings = tiny("llama"), {"acceptance": "native", "draft_length": "fixed"}
    engine = decoder(target, blurred(target), 3, drafter, settings=settings)
    requests = [Request(ids, 20) for ids in prompts(5)]
    whole = [result.token_ids for _, result in sorted(engine.decode(requests), key=lambda e: e[0])]
    begun = [ids[: min(index * 3, len(ids) - 1)] for index, ids in enumerate(whole)]
    found = dict(engine.decode(requests, begun=begun))
    assert_same(
        target, [r.prompt_ids for r in requests], [found[i].token_ids for i in range(5)], whole
    )
    for index, start in enumerate(begun):
        assert found[index].token_ids[: len(start)] == start
        assert found[index].statistics.emitted == len(found[index].token_ids) - len(start)


@pytest.mark.parametrize("drafter", ["model", "multilevel", "suffix", "retrieval", "bandit"])
def test_nothing_of_a_call_that_was_given_up_is_taken_for_another(drafter):
    """Its requests have the same numbers as the next call's, and sit in the same places."""
    target = tiny("llama")
    draft = None if drafter in ("suffix", "retrieval") else blurred(target)
    engine = decoder(target, draft, 4, drafter, settings={"acceptance": "native"})
    first, asked = prompts(8, seed=1), prompts(8, seed=2)
    next(engine.decode([Request(ids, 4 + 9 * (i % 2)) for i, ids in enumerate(first)]))
    results = engine.generate(asked, max_new_tokens=20)
    want = [generated(target, ids, 20) for ids in asked]
    assert_same(target, asked, [result.token_ids for result in results], want)
    sources = getattr(engine.drafter, "_sources", [engine.drafter])
    for source in sources:
        assert not getattr(source, "_rows", None)
        assert not getattr(source, "_guessers", None)
        assert not (hasattr(source, "reader") and source.reader._held)
