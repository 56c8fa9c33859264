"""Random settings against an independent loop that decodes one row without caches, batches, masks
or limits, and applies the rule as a scalar program."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from tests.drafting.test_lookup import search
from tests.models import EOS, VOCAB, blurred, byte_characters, gained, tiny, tiny_tokenizer

SPECIALS = {0, 1, 2, 3}
BYTES = {char: byte for byte, char in byte_characters().items()}
PIECES = [" the", "ing", "ab", "a", "o", "\n", "é", "St"]


@torch.inference_mode()
def rows_behind(model, ids, count):
    """Logits of the last `count` positions of a text."""
    return model(torch.tensor([ids])).logits[0, -count:].tolist()


def argmax(row):
    return row.index(max(row))


def top3_entropy(row):
    top = max(row)
    weights = sorted((math.exp(value - top) for value in row), reverse=True)
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights[:3] if w > 0)


def propose(draft, ids, config):
    """Up to K tokens to follow."""
    if config.drafter_name == "ngram":
        return search(ids, config.max_ngram_size, config.spd_k)
    proposal = []
    for _ in range(config.spd_k if config.setup.traits.needs_model else 0):
        [row] = rows_behind(draft, [*ids, *proposal], 1)
        proposal.append(argmax(row))
    return proposal


def spelt(ids):
    """The bytes of a text: a token may hold part of a character."""
    return bytes(BYTES[char] for char in "".join(tiny_tokenizer().convert_ids_to_tokens(ids)))


def belongs_to_a_stop(before, token, stops):
    """Whether a text holds a stop string with this token, or ends with the beginning of one."""
    text = spelt([*before, token])
    return any(
        stop in text or any(text.endswith(stop[:n]) for n in range(1, len(stop)))
        for stop in map(str.encode, stops)
    )


def is_kept(i, proposal, choices, rows, config, new, stops):
    """Whether proposed token i stays if all before it do."""
    if proposal[i] == choices[i]:
        return True
    if config.setup.rule_name == "native" or {proposal[i], choices[i]} & SPECIALS:
        return False
    before = [*new, *proposal[:i]]
    if any(belongs_to_a_stop(before, token, stops) for token in (proposal[i], choices[i])):
        return False
    if top3_entropy(rows[i]) < config.setup.fly_rule.threshold:
        return False
    if config.abla_no_window:
        return True
    window = config.win_len
    inspected = range(i + 1, i + window + (config.fly_variant != "official"))
    fits = i + window < len(proposal)
    return fits and all(proposal[j] == choices[j] for j in inspected)


def answer(target, draft, request, config):
    """The request's answer and finish reason, from the definition."""
    tokenizer = tiny_tokenizer()
    ids, new = list(request.prompt_ids), []
    while True:
        proposal = propose(draft, ids + new, config)
        rows = rows_behind(target, [*ids, *new, *proposal], len(proposal) + 1)
        choices = [argmax(row) for row in rows]
        kept = 0
        seen = proposal, choices, rows, config, new, request.stop
        while kept < len(proposal) and is_kept(kept, *seen):
            kept += 1
        for token in [*proposal[:kept], choices[kept]]:
            new.append(token)
            if token == EOS:
                return new, "eos"
            text = tokenizer.decode(new)
            if any(stop in text for stop in request.stop):
                return new, "stop"
            if len(new) == request.max_new_tokens:
                return new, "length"


configs = st.fixed_dictionaries(
    {
        "drafter": st.sampled_from(["model", "multilevel", "ngram", None]),
        "acceptance": st.sampled_from(["fly", "fly", "fly", "native"]),
        "fly_variant": st.sampled_from(["official", "paper", "vllm"]),
        "entropy": st.just("top3"),
        "spd_k": st.integers(2, 9),
        "win_len": st.integers(1, 4),
        "entropy_thre": st.sampled_from([0.05, 0.3, 0.6, 0.9]),
        "max_ngram_size": st.integers(1, 4),
        "num_ngram_pred_tokens": st.integers(1, 5),
        "draft_length": st.just("fixed"),
        "abla_no_window": st.sampled_from([False, False, False, True]),
        "loosen_copied": st.booleans(),
    }
)
words = st.lists(st.integers(4, VOCAB - 1), min_size=1, max_size=6)
# Some prompts repeat themselves, so that n-grams are found.
texts = st.builds(lambda word, times: tuple(word * times), words, st.integers(1, 5))
requests = st.builds(
    Request,
    texts,
    st.integers(1, 24),
    st.lists(st.sampled_from(PIECES), max_size=2).map(tuple),
)


@pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # K may be below W
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.sampled_from(["llama", "qwen3", "gemma2", "mistral", "gpt2"]),
    configs,
    st.lists(requests, min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.02, 0.06]),
)
def test_engine_equals_an_independent_loop(kind, options, asked, batch_size, blur):
    if options["acceptance"] == "native":
        options = {**options, "abla_no_window": False}
    if options["drafter"] is None:
        options = {**options, "use_sd": False}
    config = FLyConfig(**options)
    target = tiny(kind)
    decoder = SpeculativeDecoder(
        target, blurred(target, blur), tiny_tokenizer(), config, batch_size=batch_size
    )
    found = dict(decoder.decode(asked))
    for i, request in enumerate(asked):
        result, counts = found[i], found[i].statistics
        want = answer(target, blurred(target, blur), request, config)
        assert (result.token_ids, result.finish_reason) == want
        assert counts.emitted == gained(counts) - counts.trimmed == len(result.token_ids)
        refused = sum(v for k, v in counts.to_dict().items() if k.startswith("refused"))
        assert refused == counts.corrections
        assert counts.rounds == counts.corrections + counts.bonuses
        assert counts.matched + counts.loose <= counts.proposed
        assert result.text == cut(result.token_ids, request.stop)


def cut(ids, stops):
    """The text without specials, before the first stop string."""
    text = tiny_tokenizer().decode(ids, skip_special_tokens=True)
    return min((text.split(stop)[0] for stop in stops), key=len, default=text)
