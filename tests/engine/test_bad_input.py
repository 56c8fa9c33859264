"""What cannot be asked is refused in words, before anything is decoded; what is only odd works."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from fly.errors import ConfigError, DecodingError, FLyWarning, ModelError, RequestError
from tests.models import (
    CONTEXT,
    VOCAB,
    Bytes,
    Tape,
    blurred,
    generated,
    greedy,
    tiny,
    tiny_tokenizer,
)

NAN, INF = float("nan"), float("inf")


def engine(target=None, draft=None, batch_size=2, **settings):
    target = tiny("llama") if target is None else target
    config = FLyConfig(**{"drafter": "ngram", "acceptance": "native", **settings})
    return SpeculativeDecoder(target, draft, tiny_tokenizer(), config, batch_size=batch_size)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(k):
    with pytest.raises(ConfigError, match=f"spd_k is {k}"):
        FLyConfig(spd_k=k)


@pytest.mark.parametrize("batch_size", [0, -3, True, 2.0, "8", None])
def test_batch_size(batch_size):
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size!r}") as caught:
        engine(batch_size=batch_size)
    assert "whole number" in caught.value.fix


@pytest.mark.parametrize("name", ["model", "multilevel"])
def test_missing_draft(name):
    with pytest.raises(ConfigError, match=f"drafter '{name}' needs a draft model") as caught:
        engine(drafter=name)
    assert "ngram" in caught.value.fix


@pytest.mark.parametrize("settings", [{"drafter": "ngram"}, {"drafter": None, "use_sd": False}])
def test_a_draft_that_nobody_needs_is_left_alone(settings):
    draft = Tape("x")
    [result] = engine(draft=draft, **settings).generate([[5]], max_new_tokens=3)
    assert result.token_ids == generated(tiny("llama"), (5,), 3)
    assert draft.forwards == 0


AS_STRING: Any = "ab"
REQUESTS = {  # request, message
    "empty prompt": (Request((), 5), "the prompt has no tokens"),
    "prompt as long as the context": (
        Request((5,) * CONTEXT, 5),
        f"the prompt has {CONTEXT} tokens, and the target's context ends at {CONTEXT}",
    ),
    "prompt longer than the context": (Request((5,) * 999, 5), "the prompt has 999 tokens"),
    "id behind the vocabulary": (Request((5, VOCAB), 5), f"from 5 to {VOCAB}"),
    "negative id": (Request((-1, 5), 5), "from -1 to 5"),
    "no budget": (Request((5,), 0), "max_new_tokens is 0"),
    "negative budget": (Request((5,), -2), "max_new_tokens is -2"),
    "empty stop string": (Request((5,), 5, ("a", "")), r"stop is \('a', ''\)"),
    "stop as a plain string": (Request((5,), 5, AS_STRING), "stop is 'ab'"),
    "negative temperature": (Request((5,), 5, temperature=-0.7), "temperature is -0.7"),
    "min_p above 1": (
        Request((5,), 5, temperature=1.0, generation={"min_p": 1.5}),
        "min_p is 1.5, but it has to be a number from 0 to 1",
    ),
    "a bad word outside the vocabulary": (
        Request((5,), 5, generation={"bad_words_ids": [[VOCAB]]}),
        "request 1: ",
    ),
    "a forced end outside the vocabulary": (
        Request((5,), 5, generation={"forced_eos_token_id": 9999}),
        "forced_eos_token_id is 9999, .* token id of the target",
    ),
    "a temperature that divides to infinity": (
        Request((5,), 5, temperature=1e-39),
        "temperature is 1e-39",
    ),
    "beam search": (
        Request((5,), 5, generation={"num_beams": 4}),
        "generation argument num_beams is 4, which speculative decoding does not have",
    ),
    "temperature not a number": (Request((5,), 5, temperature=NAN), "temperature is nan"),
}


@pytest.mark.parametrize(("request_", "message"), REQUESTS.values(), ids=REQUESTS)
def test_impossible_requests(request_, message):
    """The second of two requests is named, and the first one is not decoded either."""
    target = Tape("abc")
    target.vocab_size, target.num_positions = VOCAB, CONTEXT
    with pytest.raises(RequestError, match=message) as caught:
        engine(target).decode([Request((5,), 5), request_])
    assert caught.value.message.startswith("request 1: ")
    assert caught.value.fix
    assert target.forwards == 0


ARGUMENTS = {  # arguments of generate, message
    "empty prompt": ({"prompts": [[5], []]}, "request 1: the prompt has no tokens"),
    "empty text": ({"prompts": ["a", ""]}, "request 1: the prompt has no tokens"),
    "no budget": ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    "stop as a plain string": ({"stop": "ab"}, "stop is 'ab'"),
    "empty stop string": ({"stop": [""]}, "stop is"),
    "temperature": ({"temperature": -1.0}, "temperature is -1.0"),
    "unknown argument": ({"tempreature": 1.0}, "generation argument tempreature is 1.0"),
    "one text for a list of them": ({"prompts": "abc"}, "prompts is 'abc'"),
    "one list of ids for a list of them": ({"prompts": [5, 6]}, "5 is neither a text nor a list"),
    "ids that are no integers": ({"prompts": [[5.0]]}, r"\[5.0\] is neither a text nor a list"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_impossible_arguments(arguments, message):
    with pytest.raises(RequestError, match=message):
        engine().generate(**{"prompts": [[5]], "max_new_tokens": 5, **arguments})


@pytest.mark.parametrize("name", ["model", "multilevel", "ngram"])
def test_a_prompt_of_one_token(name):
    target = tiny("llama")
    decoder = engine(target, blurred(target), drafter=name, spd_k=4)
    results = decoder.generate([[7], [8], [9]], max_new_tokens=12)
    assert [r.token_ids for r in results] == [generated(target, (t,), 12) for t in (7, 8, 9)]


@pytest.mark.parametrize(
    "prompt",
    [torch.tensor([5, 6, 7, 5, 6]), np.array([5, 6, 7, 5, 6]), (5, 6, 7, 5, 6)],
    ids=["tensor", "array", "tuple"],
)
def test_ids_of_any_integer_kind(prompt):
    """They become plain integers, which n-grams are looked up by."""
    [result] = engine().generate([prompt], max_new_tokens=8)
    [plain] = engine().generate([[5, 6, 7, 5, 6]], max_new_tokens=8)
    assert result.token_ids == plain.token_ids
    assert all(type(token) is int for token in result.token_ids)
    assert result.statistics.proposed == plain.statistics.proposed > 0


def test_a_budget_that_the_context_cuts_warns():
    prompt = tuple(range(4, 84))
    with pytest.warns(FLyWarning, match=r"request 0: 200 new tokens do not fit .* it gets 80"):
        [result] = engine().generate([prompt], max_new_tokens=200)
    want = greedy(tiny("llama"), prompt, 80)
    assert result.token_ids == want[: len(result.token_ids)]
    assert len(result.token_ids) == 80 or result.finish_reason == "eos"


def test_a_budget_that_just_fits_does_not_warn():
    prompt = tuple(range(4, 84))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [cut] = engine().generate([prompt], max_new_tokens=CONTEXT - 80)
    assert cut.finish_reason in ("length", "eos")


def test_the_last_position_of_the_context_is_used():
    prompt = tuple(range(4, 84)) + tuple(range(4, 83))
    [result] = engine().generate([prompt], max_new_tokens=1)
    assert result.token_ids == greedy(tiny("llama"), prompt, 1)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_logits_that_are_not_finite(bad, batch_size):
    target = Tape("abcdef", poison={3: bad})
    config = FLyConfig(acceptance="native", spd_k=2)
    decoder = SpeculativeDecoder(target, Tape("abcdef"), Bytes(), config, batch_size=batch_size)
    with pytest.raises(DecodingError, match="not finite behind token 4 of request 0") as caught:
        decoder.generate([[9]], max_new_tokens=9)
    assert "bfloat16" in caught.value.fix


def test_a_decoder_recovers_from_logits_that_are_not_finite():
    """The broken request's keys do not shine through the masks of later ones."""
    good, bad = [tuple(range(20, 90)), (21, 22, 23)], [(*range(10, 90), *[4] * 40)] * 2
    target = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        target.model.embed_tokens.weight[4] = NAN
    decoder = engine(target)
    first = [result.token_ids for result in decoder.generate(good, max_new_tokens=20)]
    with pytest.raises(DecodingError):
        decoder.generate(bad, max_new_tokens=20)
    again = [result.token_ids for result in decoder.generate(good, max_new_tokens=20)]
    assert again == first


def test_a_call_that_was_overtaken_says_so():
    """Two calls in flight would write into each other's rows."""
    decoder = engine()
    overtaken = decoder.decode([Request((5, 6, 7), 20), Request((8, 9), 2)])
    assert next(overtaken)[0] == 1
    decoder.generate([[5]], max_new_tokens=3)
    with pytest.raises(DecodingError, match="another call took over"):
        next(overtaken)


def test_a_call_may_be_given_up():
    decoder = engine()
    want = decoder.generate([[5, 6]], max_new_tokens=9)[0].token_ids
    next(decoder.decode([Request((5, 6, 7), 20), Request((8, 9), 2)]))
    assert decoder.generate([[5, 6]], max_new_tokens=9)[0].token_ids == want


def test_forbidden_tokens_are_finite_enough():
    """Minus infinity in a row that still chooses a token is a mask, not an error."""
    poison = {p: torch.where(torch.arange(256) < 97, -INF, 0.0) for p in range(9)}
    config = FLyConfig(spd_k=4, win_len=2, fly_variant="vllm")
    decoder = SpeculativeDecoder(Tape("abcd", poison=poison), Tape("Abcd"), Bytes(), config)
    [result] = decoder.generate([[9]], max_new_tokens=4)
    assert result.text == "abcd"


def test_stop_strings_may_be_any_sequence():
    target = Tape("abcdef")
    decoder = SpeculativeDecoder(target, None, Bytes(), FLyConfig(use_sd=False))
    for stop in (["d"], ("d",), {"d": 1}.keys()):
        assert decoder.generate([[9]], max_new_tokens=9, stop=stop)[0].text == "abc"


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_masks_is_refused(kernel):
    """Nothing is decoded, and nothing falls back to a slower way in silence."""
    model = copy.deepcopy(tiny("llama"))
    model.config._attn_implementation_internal = kernel
    for pair in ({"target": model}, {"draft": model, "drafter": "model"}):
        with pytest.raises(ModelError, match=kernel) as caught:
            engine(**pair)
        assert "sdpa or eager" in caught.value.fix


@pytest.mark.parametrize("role", ["target", "draft"])
def test_encoder_decoder_models_are_refused(role):
    """In words, and not by the probe, which would call them models without a cache."""
    config = T5Config(vocab_size=VOCAB, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    pair = {role: T5ForConditionalGeneration(config)}
    with pytest.raises(ModelError, match=f"the {role} is T5.*, an encoder-decoder model") as caught:
        engine(**pair, drafter="model" if role == "draft" else "ngram")
    assert "decoder-only" in str(caught.value)


def test_total_gen_tok_bounds_every_budget():
    config = FLyConfig(use_sd=False, total_gen_tok=2)
    [result] = SpeculativeDecoder(Tape("abcdef"), None, Bytes(), config).generate([[9]])
    assert (result.text, result.finish_reason) == ("ab", "length")
