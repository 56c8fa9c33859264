"""Sampled answers of tiny models through the whole engine, by rule."""

from collections import Counter

import torch
from scipy.stats import chisquare

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from tests.models import blurred, prompts, tiny_tokenizer

PROMPT = (5, 9, 30, 5, 9, 41, 5, 9)
TEMPERATURE, TOP_K, COUNT = 3.0, 4, 3000


def decoder(target, drafter="model", batch_size=4, temperature=TEMPERATURE, **settings):
    config = FLyConfig(
        **{"spd_k": 3, "max_ngram_size": 2, "drafter": drafter, "temperature": temperature}
        | settings
    )
    return SpeculativeDecoder(
        target, blurred(target, 0.1), tiny_tokenizer(), config, batch_size=batch_size
    )


def decoded(target, rule, temperature, batch_size=4, **settings):
    """Answers to eight prompts, each with a seed of its own."""
    engine = decoder(target, "model", batch_size, temperature, acceptance=rule, **settings)
    asked = [
        Request(ids, 24, temperature=temperature, seed=i, generation={"top_k": 20})
        for i, ids in enumerate(prompts(8))
    ]
    found = dict(engine.decode(asked))
    return [found[index] for index in range(len(asked))]


@torch.inference_mode()
def next_probs(model, ids):
    """The next token's distribution behind temperature and top-k.  [V]"""
    logits = model(torch.tensor([ids])).logits[0, -1] / TEMPERATURE
    kept = logits.topk(TOP_K)
    probs = torch.zeros_like(logits)
    probs[kept.indices] = kept.values.softmax(-1)
    return probs


def pairs_follow(target, drafter, rule, mixed, **settings):
    """Check pairs of tokens against the law mixed(p, q) at both places, with proposals of one
    token or more behind the first; the pooled statistics."""
    draft = blurred(target, 0.1)
    want = {}
    at_first = mixed(next_probs(target, PROMPT), next_probs(draft, PROMPT))
    for first, p in enumerate(at_first.tolist()):
        if p:
            text = (*PROMPT, first)
            then = mixed(next_probs(target, text), next_probs(draft, text)).tolist()
            want.update({(first, second): p * q for second, q in enumerate(then) if q})
    engine = decoder(target, drafter, 64, acceptance=rule, **settings)
    results = engine.generate(
        [PROMPT] * COUNT, max_new_tokens=4, temperature=TEMPERATURE, top_k=TOP_K, seed=1
    )
    counts = Counter(tuple(result.token_ids[:2]) for result in results)
    assert set(counts) <= set(want)
    frequent = [pair for pair, share in want.items() if share * COUNT > 5]
    observed = [counts[pair] for pair in frequent]
    expected = [want[pair] * COUNT for pair in frequent]
    observed.append(COUNT - sum(observed))
    expected.append(COUNT - sum(expected))
    if expected[-1] < 5:
        scale = (COUNT - observed.pop()) / (COUNT - expected.pop())
        expected = [each * scale for each in expected]
    assert len(observed) >= 10
    assert chisquare(observed, expected).pvalue > 0.01
    return sum((result.statistics for result in results), Statistics())
