"""Sampled text follows the target's own distribution, and a request's seed alone decides it;
processors change draft and target as they change `generate`."""

import copy
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from fly.acceptance import tables
from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.processing import Processing
from fly.engine.sampling import RoundSampler, uniform_draws
from fly.errors import RequestError
from tests.models import VOCAB, blurred, generate, prompts, tiny, tiny_tokenizer

DRAFTERS = ("model", "multilevel", "ngram", "none")
PROMPT = (5, 9, 30, 5, 9, 41, 5, 9)


def decoder(target, drafter="model", batch_size=4, **settings):
    settings = {"spd_k": 3, "max_ngram_size": 2, "acceptance": "native", **settings}
    if drafter == "none":
        settings["use_sd"] = False
    else:
        settings["drafter"] = drafter
    return SpeculativeDecoder(
        target,
        blurred(target, 0.1),
        tiny_tokenizer(),
        FLyConfig(**settings),
        batch_size=batch_size,
    )


def with_defaults(model, **settings):
    """A copy of the model whose generation config says so."""
    changed = copy.deepcopy(model)
    changed.generation_config.update(**settings)
    return changed


@torch.inference_mode()
def next_probs(target, ids, temperature, top_k):
    logits = target(torch.tensor([ids])).logits[0, -1] / temperature
    kept = logits.topk(top_k)
    probs = torch.zeros_like(logits)
    probs[kept.indices] = kept.values.softmax(-1)
    return probs.tolist()


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_samples_follow_the_targets_distribution(drafter):
    """Pairs of tokens against their exact probabilities; K = 3 puts corrections and bonuses in."""
    target, temperature, top_k = tiny("llama", eos_token_id=None), 3.0, 4
    want = {}
    for first, p in enumerate(next_probs(target, PROMPT, temperature, top_k)):
        if p:
            then = next_probs(target, (*PROMPT, first), temperature, top_k)
            want.update({(first, second): p * q for second, q in enumerate(then) if q})
    engine = decoder(target, drafter, 64)
    results = engine.generate(
        [PROMPT] * 3000, max_new_tokens=2, temperature=temperature, top_k=top_k, seed=1
    )
    counts = Counter(tuple(result.token_ids) for result in results)
    assert set(counts) <= set(want)
    observed = [counts[pair] for pair in want]
    assert len(want) == top_k**2
    assert min(want.values()) * 3000 > 5
    scale = 3000 / sum(want.values())
    assert chisquare(observed, [p * scale for p in want.values()]).pvalue > 0.01
    pooled = sum((result.statistics for result in results), Statistics())
    if drafter in ("model", "multilevel"):
        assert pooled.matched > 500
        assert pooled.corrections > 300


def requests(count=12, temperature=1.5):
    return [
        Request(ids, 24, temperature=temperature, seed=100 + i, generation={"top_k": 20})
        for i, ids in enumerate(prompts(count))
    ]


@pytest.mark.filterwarnings("ignore::fly.errors.ConfigWarning")  # ngram is judged natively
@pytest.mark.parametrize("rule", ["native", "fly"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_seed_decides_whatever_the_batch_and_order(drafter, rule):
    target, asked = tiny("llama"), requests()
    settings = {"acceptance": rule, "spd_k": 5, "win_len": 2} if drafter != "none" else {}
    answers = []
    for batch_size in (1, 5):
        order = random.Random(batch_size).sample(range(len(asked)), len(asked))
        found = dict(
            decoder(target, drafter, batch_size, **settings).decode([asked[i] for i in order])
        )
        answers.append([found[order.index(i)].token_ids for i in range(len(asked))])
    assert answers[0] == answers[1]


def test_multilevel_draws_what_the_chain_draws():
    target = tiny("llama")
    chain, levels = (dict(decoder(target, name).decode(requests())) for name in DRAFTERS[:2])
    assert all(chain[i].token_ids == levels[i].token_ids for i in chain)


def test_other_seeds_give_other_samples():
    target = tiny("llama")
    asked = [Request(PROMPT, 16, temperature=1.5, seed=seed) for seed in range(8)]
    found = dict(decoder(target).decode(asked))
    assert len({tuple(result.token_ids) for result in found.values()}) == 8


def test_greedy_and_sampled_requests_share_a_batch():
    target = tiny("llama")
    asked = [
        Request(ids, 20, temperature=temperature, seed=i)
        for i, (ids, temperature) in enumerate(
            zip(prompts(8), (0, 1.2, 0, 0.6, 0, 0, 2.0, 0), strict=True)
        )
    ]
    together, alone = (dict(decoder(target, batch_size=size).decode(asked)) for size in (8, 1))
    for index, request in enumerate(asked):
        assert together[index].token_ids == alone[index].token_ids
        if request.temperature == 0:
            assert together[index].token_ids == generate(target, request.prompt_ids, 20)


PROCESSORS = {
    "repetition penalty": {"repetition_penalty": 1.8},
    "no repeated n-grams": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[9], [30, 41], [VOCAB - 1]]},
    "suppressed tokens": {"suppress_tokens": list(range(4, 40))},
    "suppressed at first": {"begin_suppress_tokens": list(range(4, VOCAB, 2))},
    "minimal length": {"min_new_tokens": 18},
    "forced end": {"forced_eos_token_id": 1},
    "all at once": {"repetition_penalty": 1.3, "min_new_tokens": 9, "suppress_tokens": [7, 8, 9]},
}


@pytest.mark.parametrize("options", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_processors_do_what_they_do_in_generate(drafter, options):
    target = tiny("llama")
    results = decoder(target, drafter).generate(prompts(6), max_new_tokens=20, **options)
    answers = [result.token_ids for result in results]
    assert answers == [generate(target, ids, 20, **options) for ids in prompts(6)]
    if drafter == "model":
        assert sum(result.statistics.matched for result in results) > 10, "the draft heeds them"


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.8}, {"suppress_tokens": [5, 6, 7]}])
def test_the_generation_config_of_the_target_holds(options):
    target = with_defaults(tiny("llama"), **options)
    answers = [r.token_ids for r in decoder(target).generate(prompts(4), max_new_tokens=20)]
    assert answers == [generate(target, ids, 20) for ids in prompts(4)]
    neutral = {"repetition_penalty": 1.0, "suppress_tokens": None}
    plain = decoder(target).generate(prompts(4), max_new_tokens=20, **neutral)
    assert answers != [r.token_ids for r in plain], "a request may say otherwise"


@torch.inference_mode()
def test_loosened_tokens_are_never_forbidden_ones():
    target, forbidden = tiny("llama"), list(range(4, 60))
    engine = decoder(target, acceptance="fly", abla_no_window=True, spd_k=6, entropy_thre=0.02)
    results = engine.generate(prompts(8), max_new_tokens=30, suppress_tokens=forbidden)
    assert not {token for result in results for token in result.token_ids} & set(forbidden)
    results = engine.generate(prompts(8), max_new_tokens=30, temperature=2.0, top_k=3)
    for prompt, result in zip(prompts(8), results, strict=True):
        text = list(prompt)
        for token in result.token_ids:
            assert next_probs(target, text, 2.0, 3)[token] > 0
            text.append(token)
    assert sum(result.statistics.loose for result in results) > 5


def test_a_generation_config_with_another_method_is_refused():
    target = with_defaults(tiny("llama"), num_beams=3)
    with pytest.raises(RequestError, match="generation config has num_beams 3"):
        decoder(target).generate(prompts(2), max_new_tokens=5)
    assert len(decoder(target).generate(prompts(2), max_new_tokens=5, num_beams=1)) == 2


def test_long_arrays_are_told_apart():
    """Their own text leaves the middle out."""
    target = tiny("llama")
    base = [VOCAB - 1] * 1500
    one, other = (torch.tensor([*base[:700], token, *base[701:]]) for token in (7, 8))
    asked = [Request(PROMPT, 20, generation={"suppress_tokens": ids}) for ids in (one, other)]
    found = dict(decoder(target).decode(asked))
    for index, token in enumerate((7, 8)):
        suppressed = {"suppress_tokens": [token, VOCAB - 1]}
        assert found[index].token_ids == generate(target, PROMPT, 20, **suppressed)


def test_draws_are_the_same_in_longer_tables():
    short, long = uniform_draws(7, 3, 4), uniform_draws(7, 3, 9)
    assert (long[:4] == short).all()
    assert ((long >= 0) & (long < 1)).all()
    others = [uniform_draws(8, 3, 4), uniform_draws(7, 4, 4), uniform_draws(-1, 3, 4)]
    assert all((other != short).all() for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_processors_get_pieces_of_large_tables(monkeypatch, dtype):
    """They make several tables of what they get; what they give is the same to the last bit."""
    sizes = []
    apply = Processing.apply

    def spy(processing, logits, history=None):
        sizes.append(logits.numel())
        return apply(processing, logits, history)

    processors = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.9)])
    processing = Processing(processors, True, False, torch.device("cpu"))
    rows = [SimpleNamespace(processing=processing, is_sampled=True) for _ in range(3)]
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = RoundSampler(rows, 50).process(logits, [0] * 3, list)
    monkeypatch.setattr(Processing, "apply", spy)
    for most, pieces in ((2 * 50, 6), (4 * 50, 3), (8 * 50, 2), (12 * 50, 1)):
        sizes.clear()
        monkeypatch.setattr(tables, "LARGEST_ON_CPU", most)
        assert torch.equal(RoundSampler(rows, 50).process(logits, [0] * 3, list), whole)
        assert len(sizes) == pieces
        assert max(sizes) <= most
