"""Every architecture of the README's table, as target and as draft: the probe finds its kind of
cache, and native text is `generate`'s.
"""

import contextlib
import warnings

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder, Statistics
from fly.engine.model.probe import BATCHED, PLAIN, ROWWISE, STEPWISE, probe
from fly.errors import FLyWarning, ModelError
from tests.crossing import mostly_slow
from tests.engine.architectures import FAMILIES, IS_NEWEST, README, block, table
from tests.models import (
    assert_same,
    blurred,
    generated,
    greedy,
    prompts,
    tiny,
    tiny_tokenizer,
)

TOKENS = 20
K = 4
UNABLE = (STEPWISE, PLAIN)
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def model_of(family):
    """The family's tiny model; skips where transformers lacks it, which the newest may not."""
    if not family.exists:
        assert not IS_NEWEST
        assert family.floor is None
        pytest.skip(f"this transformers has no {family.kind}")
    return family.model()


def decode(target, draft, drafter, batch_size, asked, num_tokens=TOKENS):
    """Results of native decoding, all rounds recorded."""
    config = FLyConfig(
        drafter=drafter,
        acceptance="native",
        spd_k=K,
        draft_length="fixed",
        max_ngram_size=3,
        num_ngram_pred_tokens=3,
    )
    decoder = SpeculativeDecoder(
        target, draft, tiny_tokenizer(), config, batch_size=batch_size, record_rounds=True
    )
    return decoder.generate(asked, max_new_tokens=num_tokens)


def assert_generated(target, asked, results, num_tokens=TOKENS):
    answers = [result.token_ids for result in results]
    assert_same(target, asked, answers, [generated(target, ids, num_tokens) for ids in asked])


@EACH
def test_the_probe_finds_the_tier(family):
    model = model_of(family)
    before = torch.get_rng_state()
    found = probe(model)
    assert found.kind is family.cache_here, found.reasons
    assert all(found.reasons.values())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch_size", "drafter"), mostly_slow([(4, "multilevel"), (1, "model")]))
@EACH
def test_as_target(family, batch_size, drafter):
    target = model_of(family)
    asked = prompts(5)[: 5 if batch_size > 1 else 2]
    is_able = family.cache_here not in UNABLE
    said = contextlib.nullcontext() if is_able else pytest.warns(FLyWarning, match="plainly")
    with said as caught:
        results = decode(target, blurred(target), drafter, batch_size, asked, family.num_tokens)
    assert_generated(target, asked, results, family.num_tokens)
    counts = sum((result.statistics for result in results), Statistics())
    if is_able:
        assert counts.matched > 4 * batch_size
        assert counts.corrections > 0 or batch_size == 1
    else:
        assert counts.plain == counts.emitted
        assert len(caught) == 1


@pytest.mark.parametrize("batch_size", mostly_slow([1, 4]))
@EACH
def test_as_draft(family, batch_size):
    """What it proposes is its own greedy text, round after round of refusals."""
    target, draft = tiny("llama"), model_of(family)
    asked = prompts(5)[: 5 if batch_size > 1 else 2]
    results = decode(target, draft, "model", batch_size, asked, 9)
    assert_generated(target, asked, results, 9)
    compared = 0
    for prompt, result in zip(asked, results, strict=True):
        ids = list(prompt)
        for number, record in enumerate(result.rounds):
            if number % 3 == 1:  # the second, behind a first refusal
                assert record.draft_ids == greedy(draft, ids, len(record.draft_ids))
                compared += len(record.draft_ids)
            ids += record.emitted_ids
    assert compared > 5


def test_the_readme_shows_this_table():
    """`python -m tests.engine.architectures` writes it."""
    assert block(README.read_text(encoding="utf-8")) == table()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("falcon", {"alibi": True}),
        (
            "gpt_neo",
            {"num_layers": 2, "attention_types": ((("global", "local"), 1),), "window_size": 8},
        ),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 160}),
    ],
)
def test_other_models_that_slots_cannot_serve(kind, settings):
    target = tiny(kind, **settings)
    assert probe(target).kind is ROWWISE
    results = decode(target, blurred(target), "model", 3, prompts(4))
    assert_generated(target, prompts(4), results)
    assert sum(result.statistics.matched for result in results) > 10


def forgetful(model):
    """The same model, but a forward behind cached tokens shifts its choices by their number."""
    forward = model.forward

    def shifted(*args, past_key_values=None, **kwargs):
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        output = forward(*args, past_key_values=past_key_values, **kwargs)
        output.logits = output.logits.roll(int(seen), -1)
        return output

    model.forward = shifted
    return model


def test_a_target_that_fails_all_probes_decodes_plainly():
    target = forgetful(blurred(tiny("llama"), amount=0))
    found = probe(target)
    assert found.kind is PLAIN
    assert list(found.reasons) == [kind.name for kind in (BATCHED, ROWWISE, STEPWISE)]
    for batch_size in (1, 3):
        with pytest.warns(FLyWarning, match=r"the target, LlamaForCausalLM, .* plainly") as caught:
            results = decode(target, tiny("llama"), "model", batch_size, prompts(5), 8)
        assert len(caught) == 1
        assert [result.token_ids for result in results] == [
            generated(target, ids, 8) for ids in prompts(5)
        ]
        assert sum(result.statistics.proposed for result in results) == 0


def test_a_cache_that_only_single_tokens_extend_rightly():
    """Mamba reads several tokens as one.  It drafts all the same, and as target decodes plainly."""
    model, target = tiny("mamba", state_size=8), tiny("llama")
    assert probe(model).kind is STEPWISE
    results = decode(target, blurred(model), "model", 2, prompts(3), 9)
    assert_generated(target, prompts(3), results, 9)
    assert sum(result.statistics.proposed for result in results) > 20
    with pytest.warns(FLyWarning, match="the target, MambaForCausalLM"):
        results = decode(model, target, "model", 2, prompts(3), 9)
    want = [generated(model, ids, 9) for ids in prompts(3)]
    assert [result.token_ids for result in results] == want


def test_plain_decoding_that_was_asked_for_is_not_a_warning():
    target = forgetful(blurred(tiny("llama"), amount=0.0))
    config = FLyConfig(use_sd=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = SpeculativeDecoder(target, None, tiny_tokenizer(), config)
    assert decoder.generate([[5, 6]], max_new_tokens=9)[0].token_ids == generated(target, (5, 6), 9)


def test_a_draft_that_raises_is_left_out():
    draft = blurred(tiny("llama"), amount=1e-9)
    draft.forward = lambda *args, **kwargs: 1 / 0
    with pytest.warns(FLyWarning, match=r"the draft, .*ZeroDivisionError: division by zero"):
        results = decode(tiny("llama"), draft, "model", 2, prompts(2))
    assert_generated(tiny("llama"), prompts(2), results)


def test_a_target_that_cannot_be_fed_is_refused():
    target = blurred(tiny("llama"), amount=2e-9)
    target.forward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ModelError, match="LlamaForCausalLM cannot be decoded token by token"):
        decode(target, None, "ngram", 2, prompts(2))


def test_a_target_that_only_its_own_generate_can_decode():
    """XLM predicts at a mask token that `generate` appends."""
    target = tiny("xlm", emb_dim=32, n_heads=4, n_layers=2, causal=True, asm=False)
    with pytest.raises(ModelError, match=r"cannot be decoded token by token .*cache of its own"):
        decode(target, None, "ngram", 2, prompts(2))


def test_longrope_ends_with_its_original_context():
    """Up to there the frequencies are fixed; behind it they would depend on the longest row."""
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    target = tiny.__wrapped__("phi3", original_max_position_embeddings=48, rope_scaling=rope)
    assert probe(target).kind is BATCHED
    asked = [ids for ids in prompts(6) if len(ids) <= 28]
    assert len(asked) >= 2
    results = decode(target, blurred(target), "model", 4, asked)
    assert_generated(target, asked, results)
    with pytest.warns(FLyWarning, match="do not fit .* in a context of 48"):
        decode(target, None, "ngram", 1, [range(4, 44)])
    with torch.inference_mode():
        text = torch.arange(4, 64)[None]
        short, long = target(text[:, :48]).logits[0], target(text).logits[0, :48]
    assert not torch.allclose(short, long, atol=0.1), "behind the limit nothing would differ"
