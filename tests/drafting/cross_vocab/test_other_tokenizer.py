"""A draft with a tokenizer of its own never changes the target's text, and where it knows the text
its tokens are kept."""

import functools
import itertools
import random
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from fly.config import FLyConfig
from fly.drafting import DrafterContext
from fly.drafting.cross_vocab.other_tokenizer import OtherTokenizerDrafter
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.model.base import CausalModel
from fly.errors import ConfigError, FLyWarning
from tests.crossing import mostly_slow
from tests.drafting.foreign import (
    TOKENIZERS,
    Scribe,
    byte_level,
    permuted,
    problems,
    sentencepiece,
)
from tests.drafting.test_chain import leave
from tests.engine.test_sampling import next_probs
from tests.models import (
    EOS,
    VOCAB,
    assert_same,
    blurred,
    demo_model,
    demo_tokenizer,
    generate,
    generated,
    prompts,
    shared_model,
    tiny,
    tiny_tokenizer,
)

METHODS = ("reencode", "intersect")
MAX_NEW_TOKENS = 60


def config_of(method="auto", spd_k=6, acceptance="native", drafting=None, **settings):
    # Held to what both have, a draft may have little to say: of that is warned.
    least = {"min_overlap": 0} if method == "intersect" else {}
    drafting = {"method": method, **least, **(drafting or {})}
    return FLyConfig(
        dual_tok=True, acceptance=acceptance, spd_k=spd_k, drafter_settings=drafting, **settings
    )


def decoder(target, draft, tokenizers, method="auto", batch_size=8, **settings):
    tokenizer, own = tokenizers
    config = config_of(method, **settings)
    return SpeculativeDecoder(
        target,
        draft,
        tokenizer,
        config,
        draft_tokenizer=own,
        batch_size=batch_size,
        end_ids=[tokenizer.eos_token_id],
    )


def pooled(results):
    return sum((result.statistics for result in results), Statistics())


def mean_length(results):
    counts = pooled(results)
    return counts.emitted / (counts.rounds + counts.plain)


@functools.cache
def random_draft(name):
    """A small random model over one of the foreign tokenizers."""
    size = len(TOKENIZERS[name]())
    return tiny("llama", 3, vocab_size=size + 5, max_position_embeddings=4096, eos_token_id=2)


@shared_model
def permuted_demo():
    """The embedded draft with its ids shuffled and some tokens that the target has not."""
    words = [demo_tokenizer().convert_ids_to_tokens(index) for index in range(300, 800, 9)]
    return permuted(demo_tokenizer(), demo_model("draft"), renamed=words)


@shared_model
def permuted_tiny():
    """The random target, blurred and with its ids shuffled; the target lacks some tokens."""
    target = tiny("llama", eos_token_id=None)
    words = [tiny_tokenizer().convert_ids_to_tokens(index) for index in (10, 20, 30, 55, 70)]
    return permuted(tiny_tokenizer(), blurred(target, 0.1), renamed=words)


@functools.cache
def asked():
    return tuple(tuple(demo_tokenizer()(text).input_ids) for text in problems())


def own_answers(texts):
    return [generated(demo_model("target"), ids, MAX_NEW_TOKENS) for ids in texts]


# --- greedy: the target's own text


@pytest.mark.parametrize("batch_size", mostly_slow([8, 1]))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_native_text_equals_generate_with_a_draft_that_knows_nothing(name, method, batch_size):
    target, texts = demo_model("target"), asked()[:: 8 // batch_size]
    engine = decoder(
        target, random_draft(name), (demo_tokenizer(), TOKENIZERS[name]()), method, batch_size
    )
    results = engine.generate(texts, max_new_tokens=MAX_NEW_TOKENS)
    assert_same(target, texts, [result.token_ids for result in results], own_answers(texts))
    assert pooled(results).proposed > 50


@pytest.mark.parametrize("batch_size", mostly_slow([8, 1]))
@pytest.mark.parametrize("method", METHODS)
def test_native_text_equals_generate_with_a_draft_that_agrees(method, batch_size):
    target, (tokenizer, draft) = demo_model("target"), permuted_demo()
    engine = decoder(target, draft, (demo_tokenizer(), tokenizer), method, batch_size)
    results = engine.generate(asked(), max_new_tokens=MAX_NEW_TOKENS)
    assert_same(target, asked(), [result.token_ids for result in results], own_answers(asked()))
    assert mean_length(results) > 2, "the draft's tokens are kept"


@pytest.mark.parametrize("batch_size", mostly_slow([3, 1]))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_texts(name, method, batch_size):
    """Of half characters, special tokens and bytes that are no text; rows move and refill."""
    target = tiny("llama")
    engine = decoder(
        target, random_draft(name), (tiny_tokenizer(), TOKENIZERS[name]()), method, batch_size
    )
    results = engine.generate(prompts(6), max_new_tokens=24)
    answers = [result.token_ids for result in results]
    assert answers == [generated(target, ids, 24) for ids in prompts(6)]
    assert any(answer[-1] == EOS for answer in answers)
    assert pooled(results).proposed > 100


@pytest.mark.parametrize("method", METHODS)
def test_every_draft_kind_and_loose_rule_go_with_it(method):
    target, (tokenizer, draft) = demo_model("target"), permuted_demo()
    tokenizers = demo_tokenizer(), tokenizer
    engine = decoder(
        target, draft, tokenizers, method, acceptance="fly", spd_k=8, win_len=3, entropy_thre=0.1
    )
    alone, together = (
        [
            result.token_ids
            for result in engine.with_config(engine.config, batch_size=size).generate(
                asked(), max_new_tokens=60
            )
        ]
        for size in (1, 8)
    )
    assert alone == together
    results = engine.generate(asked(), max_new_tokens=60)
    assert pooled(results).loose > 0


# --- a draft that knows the text


TEXTS = {
    "words": "the quick brown fox jumps over the lazy dog, and so on, and so on.",
    "code": "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # 3\n",
    "characters of several bytes": "the 🙂 and 🙂🙂 and é of 日本 is é 🙂 the sum",
    "newlines and spaces": "\n\n   the sum\n\n\n  of    and\n \n so on",
    "special token": "the sum of<|user|>the quick brown<|eos|>fox",
}


class Known(CausalModel):
    """A target that says one text by heart behind a prompt of one token (tests.models.Tape, for any
    number of ids).
    """

    device = torch.device("cpu")

    def __init__(self, ids, size):
        self.ids, self.vocab_size, self.num_positions = ids, size, None
        self.config = SimpleNamespace(eos_token_id=None)

    def prefill(self, prompts, first_row):
        """Nothing is read."""

    def extend(self, ids, starts):
        """Logits [B, n, V]."""
        logits = torch.zeros(*ids.shape, self.vocab_size)
        for row, start in enumerate(starts):
            for place in range(ids.shape[1]):
                position = start + place + 1
                said = self.ids[position] if position < len(self.ids) else 5
                logits[row, place, said] = 9.0
        return logits

    def move(self, source, destination, length):
        """Nothing is kept."""

    def clear(self):
        """Nothing is kept."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_draft_that_knows_the_text_is_followed(text, name, method):
    """So what the draft reads, what it has in its cache, and what it is taken to say are right."""
    ids = [*demo_tokenizer().encode(text), demo_tokenizer().eos_token_id]
    target = Known(ids, len(demo_tokenizer()))
    own = TOKENIZERS[name]()
    scribe = Scribe(own, [text.replace("<|user|>", "").replace("<|eos|>", "")])
    engine = decoder(target, scribe, (demo_tokenizer(), own), method)
    [result] = engine.generate([ids[:1]], max_new_tokens=len(ids) - 1)
    assert result.token_ids == ids[1 : ids.index(demo_tokenizer().eos_token_id) + 1]
    is_easy = name == "byte-level" and "<" not in text
    assert mean_length([result]) > (2.5 if is_easy else 1.5)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_encoded_anew_nearly_all_is_kept(name):
    text = "\n".join(problems(2))
    ids = demo_tokenizer().encode(text)
    own = TOKENIZERS[name]()
    scribe = Scribe(own, [text])
    engine = decoder(Known(ids, len(demo_tokenizer())), scribe, (demo_tokenizer(), own), "reencode")
    [result] = engine.generate([ids[:1]], max_new_tokens=len(ids) - 1)
    assert result.token_ids == ids[1:]
    counts = pooled([result])
    assert counts.matched / counts.proposed > 0.85
    assert mean_length([result]) > 4
    # Every round reads little more than what it drafts: the text itself is read once.
    assert scribe.reads < 3 * counts.draft_forwards + 2 * len(ids)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
@torch.inference_mode()
def test_rows_move_and_refill(name, method):
    """Rounds of random fate on the drafter alone; the scribe notices what was not read anew."""
    fate = random.Random(4)
    texts = [f"{number} {text}" for number, text in enumerate(problems(6, 5))]
    own, tokenizer = TOKENIZERS[name](), demo_tokenizer()
    scribe = Scribe(own, texts)
    drafter = OtherTokenizerDrafter.from_config(
        config_of(method, 5).setup.drafter,
        DrafterContext(
            torch.device("cpu"),
            len(tokenizer),
            model=scribe,
            tokenizer=tokenizer,
            draft_tokenizer=own,
        ),
    )
    waiting = [tokenizer.encode(text) for text in texts]
    rows, kept, offered = [], 0, 0
    for _ in range(60):
        while waiting and len(rows) < 4:
            ids = waiting.pop()
            begun = ids[: fate.randint(1, 40)]
            rows.append(SimpleNamespace(ids=begun, index=len(waiting), key="", all=ids))
            drafter.prefill(rows)
        limits = [fate.choice((0, 5, 5, 2, 9)) for _ in rows]
        proposal = drafter.propose(rows, limits)
        for row, limit, new, length in zip(
            rows, limits, proposal.ids.tolist(), proposal.lengths.tolist(), strict=True
        ):
            assert length <= min(limit, 5)
            right = row.all[len(row.ids) : len(row.ids) + length]
            pairs = zip(new, right, strict=False)
            count = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            offered, kept = offered + length, kept + count
            row.ids = row.all[: len(row.ids) + count + 1]
        drafter.commit(rows)
        for index in reversed(range(len(rows))):
            if rows[index].ids == rows[index].all or fate.random() < 0.02:
                leave(drafter, rows, index)
        if not rows and not waiting:
            break
    assert offered > 100
    assert kept > (0.8 if method == "reencode" else 0.15) * offered


# --- in distribution


@pytest.mark.parametrize("method", METHODS)
def test_samples_follow_the_targets_distribution(method):
    """As tests/engine/test_sampling.py: pairs of tokens against their exact probabilities."""
    target, prompt, temperature, top_k = tiny("llama", eos_token_id=None), (11, 17), 1.0, 4
    tokenizer, draft = permuted_tiny()
    want = {}
    for first, p in enumerate(next_probs(target, prompt, temperature, top_k)):
        if p and first == EOS:
            want[(first,)] = p
        elif p:
            then = next_probs(target, (*prompt, first), temperature, top_k)
            want.update({(first, second): p * q for second, q in enumerate(then) if q})
    engine = decoder(target, draft, (tiny_tokenizer(), tokenizer), method, 64, spd_k=3)
    results = engine.generate(
        [prompt] * 3000, max_new_tokens=2, temperature=temperature, top_k=top_k, seed=1
    )
    counts = Counter(tuple(result.token_ids) for result in results)
    assert set(counts) <= set(want)
    likely = [pair for pair in want if want[pair] * 3000 > 5]
    observed = [counts[pair] for pair in likely]
    expected = [3000 * want[pair] for pair in likely]
    rest = 3000 - sum(observed), 3000 - sum(expected)
    if rest[1] > 5:
        observed, expected = [*observed, rest[0]], [*expected, rest[1]]
    scale = sum(observed) / sum(expected)
    assert len(likely) >= 10
    assert chisquare(observed, [scale * count for count in expected]).pvalue > 0.01
    statistics = pooled(results)
    assert statistics.matched > 300
    assert statistics.corrections > 300


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_whatever_the_batch(method):
    target, (tokenizer, draft) = tiny("llama", eos_token_id=None), permuted_tiny()
    requests = [
        Request(ids, 24, temperature=1.2, seed=100 + i, generation={"top_k": 20})
        for i, ids in enumerate(prompts(8))
    ]
    engine = decoder(target, draft, (tiny_tokenizer(), tokenizer), method)
    answers = []
    for size in (1, 5):
        found = dict(engine.with_config(engine.config, batch_size=size).decode(requests))
        answers.append([found[index].token_ids for index in range(8)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.8},
        {"suppress_tokens": list(range(4, 60))},
        {"suppress_tokens": list(range(3, VOCAB))},
        {"forced_eos_token_id": 1},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_processors_do_what_they_do_in_generate(method, options):
    """Even one that forbids nearly all that both have."""
    target, (tokenizer, draft) = tiny("llama"), permuted_tiny()
    engine = decoder(target, draft, (tiny_tokenizer(), tokenizer), method)
    results = engine.generate(prompts(4), max_new_tokens=16, **options)
    answers = [result.token_ids for result in results]
    assert answers == [generate(target, ids, 16, **options) for ids in prompts(4)]
    sampled = engine.generate(prompts(4), max_new_tokens=16, temperature=0.5, **options)
    assert all(0 <= token < VOCAB for result in sampled for token in result.token_ids)


# --- edges


@pytest.mark.parametrize("method", METHODS)
def test_a_draft_of_short_context_falls_silent(method):
    target = demo_model("target")
    draft = tiny("llama", 3, vocab_size=len(byte_level()), max_position_embeddings=48)
    engine = decoder(target, draft, (demo_tokenizer(), byte_level()), method)
    texts = [ids[:20] for ids in asked()] + [asked()[0][:60]]
    results = engine.generate(texts, max_new_tokens=60)
    own = [generated(target, ids, 60) for ids in texts]
    assert_same(target, texts, [result.token_ids for result in results], own)
    assert pooled(results).plain > 0
    assert pooled(results).proposed > 0


@pytest.mark.parametrize("method", METHODS)
def test_prompts_of_special_tokens_alone(method):
    target = demo_model("target")
    texts = [(2,), (1,), (3, 2), (0, 0, 3)]
    engine = decoder(
        target, random_draft("sentencepiece"), (demo_tokenizer(), sentencepiece()), method
    )
    results = engine.generate(texts, max_new_tokens=20)
    own = [generated(target, ids, 20) for ids in texts]
    assert_same(target, texts, [result.token_ids for result in results], own)


def test_the_draft_is_not_held_to_the_targets_ids():
    own = byte_level(reserved=600)
    assert len(own) > len(demo_tokenizer()) > 0
    text = problems(1)[0]
    rare = own.encode(text)
    ids = demo_tokenizer().encode(text)
    scribe = Scribe(own, [text])
    engine = decoder(Known(ids, len(demo_tokenizer())), scribe, (demo_tokenizer(), own), "reencode")
    [result] = engine.generate([ids[:1]], max_new_tokens=len(ids) - 1)
    assert max(rare) > len(demo_tokenizer())
    assert mean_length([result]) > 3
    draft = tiny("llama", 3, vocab_size=len(own), max_position_embeddings=512)
    engine = decoder(demo_model("target"), draft, (demo_tokenizer(), own))
    assert engine._models.pair.draft.extend(torch.tensor([[1]]), [0]).shape[-1] == len(own)


# --- which method, and what is refused


def drafter_of(tokenizers, method="auto", **drafting):
    target, own = tokenizers
    model = Scribe(own, []) if own.get_vocab() else None
    config = config_of(method, drafting=drafting)
    parts = DrafterContext(
        torch.device("cpu"), len(target), model=model, tokenizer=target, draft_tokenizer=own
    )
    return OtherTokenizerDrafter.from_config(config.setup.drafter, parts)


def test_auto_intersects_where_the_vocabularies_overlap_enough():
    tokenizers = demo_tokenizer(), byte_level()
    many = drafter_of(tokenizers)
    assert many.report()["method"] == "intersect"
    assert many.shared.overlap > 0.8
    assert drafter_of(tokenizers, min_overlap=0.95).report() == {"method": "reencode"}
    assert drafter_of((tiny_tokenizer(), byte_level())).report() == {"method": "reencode"}


def test_little_in_common_is_said():
    with pytest.warns(FLyWarning, match=r"the target has \d+%"):
        few = drafter_of((tiny_tokenizer(), byte_level()), "intersect", min_overlap=0.5)
    assert 20 < len(few.shared) < 100


def test_nothing_in_common_is_refused():
    words = sorted(set(tiny_tokenizer().get_vocab()) - set(tiny_tokenizer().all_special_tokens))
    words.remove("<end>")
    strange, _ = permuted(tiny_tokenizer(), tiny("llama"), renamed=words)
    with pytest.raises(ConfigError, match="no token in common"):
        drafter_of((tiny_tokenizer(), strange), "intersect")


def test_probabilities_are_promised_only_where_the_method_is_named():
    for method, expected in (("auto", False), ("reencode", False), ("intersect", True)):
        traits = config_of(method).setup.traits
        assert traits.gives_probs == traits.is_chain == expected
        assert traits.own_tokenizer
        assert traits.needs_model


WRONG = {
    "method": ({"method": "guess"}, "method"),
    "lookbehind": ({"lookbehind": 3}, "lookbehind"),
    "overlap": ({"min_overlap": 1.5}, "min_overlap"),
    "unknown": ({"look_behind": 3}, "look_behind"),
}


@pytest.mark.parametrize(("drafting", "word"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_told(drafting, word):
    with pytest.raises(ConfigError, match=word):
        FLyConfig(dual_tok=True, drafter_settings=drafting)


def test_with_config_shares_the_tokenizer():
    tokenizer, draft = permuted_demo()
    engine = decoder(demo_model("target"), draft, (demo_tokenizer(), tokenizer), "intersect")
    other = engine.with_config(config_of("reencode"))
    assert other.drafter.report() == {"method": "reencode"}
    [result] = other.generate(asked()[:1], max_new_tokens=20)
    assert result.token_ids == generated(demo_model("target"), asked()[0], 20)


def test_same_tokenizers_work_and_are_warned_of_once():
    target, draft = demo_model("target"), demo_model("draft")
    tokenizers = demo_tokenizer(), demo_tokenizer()
    with pytest.warns(FLyWarning, match="'model' is faster") as caught:
        engine = decoder(target, draft, tokenizers)
    assert len(caught) == 1
    other = engine.with_config(config_of("reencode"))
    plain = engine.with_config(FLyConfig(acceptance="native", spd_k=6))
    expected = own_answers(asked()[:3])
    for each in (engine, other, plain):
        results = each.generate(asked()[:3], max_new_tokens=MAX_NEW_TOKENS)
        assert [result.token_ids for result in results] == expected
        assert mean_length(results) > 2


def test_a_missing_tokenizer_is_refused():
    models = demo_model("target"), demo_model("draft")
    with pytest.raises(ConfigError, match="the draft's was not given"):
        SpeculativeDecoder(*models, demo_tokenizer(), config_of())
    engine = SpeculativeDecoder(*models, demo_tokenizer(), FLyConfig())
    with pytest.raises(ConfigError, match="the draft's was not given"):
        engine.with_config(config_of())


def test_drafters_that_do_not_translate_are_refused():
    tokenizer, draft = permuted_demo()
    models = demo_model("target"), draft
    with pytest.raises(ConfigError, match="their tokenizers differ") as caught:
        SpeculativeDecoder(*models, demo_tokenizer(), FLyConfig(), draft_tokenizer=tokenizer)
    assert "dual_tok" in caught.value.fix
    engine = decoder(*models, (demo_tokenizer(), tokenizer))
    with pytest.raises(ConfigError, match="'multilevel' takes the draft's ids"):
        engine.with_config(FLyConfig(use_ngram=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.with_config(FLyConfig(drafter="ngram", acceptance="native"))
