"""Arguments of `generate`: each value is accepted or refused in words that name it, before anything
is decoded; what the target's generation config says holds, or is refused by name."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.engine import SHAPING, Request, SpeculativeDecoder
from fly.errors import RequestError
from tests.models import VOCAB, Bytes, Tape, blurred, generate, prompts, tiny, tiny_tokenizer

NAN, INF = float("nan"), float("inf")
PROMPT = (5, 9, 30, 5, 9, 41)


def engine(target=None, **settings):
    config = FLyConfig(**{"drafter": "ngram", "acceptance": "native", "spd_k": 3, **settings})
    return SpeculativeDecoder(target or tiny("llama"), None, tiny_tokenizer(), config)


def with_defaults(model, **defaults):
    """A copy of the model whose generation config says so, valid or not."""
    changed = copy.deepcopy(model)
    for name, value in defaults.items():
        setattr(changed.generation_config, name, value)
    return changed


ENGINE = engine()

REFUSED = {
    "top_p": [0, 2, NAN, -0.1, "0.9", True, [0.9]],
    "top_h": [0, 2, NAN, "x"],
    "typical_p": [0, 1.5, NAN, "x"],
    "min_p": [-0.1, 1.1, NAN, INF, "x", False],
    "epsilon_cutoff": [1, -1e-9, NAN, "3e-4"],
    "eta_cutoff": [1, -1e-9, NAN, "x"],
    "top_k": [-1, 2.5, NAN, "50", True],
    "repetition_penalty": [0, -1.2, NAN, INF, "1.2", 1e-30, [1.2]],
    "encoder_repetition_penalty": [0, NAN, INF, "x"],
    "no_repeat_ngram_size": [-2, 1.5, NAN, "3", True],
    "encoder_no_repeat_ngram_size": [-2, 1.5, "3"],
    "min_length": [-1, 2.5, NAN, INF, "5"],
    "min_new_tokens": [-1, 2.5, NAN, "5", True],
    "bad_words_ids": [[], 5, "ab", [5], [[]], [[VOCAB]], [["a"]], [[1.0]], [[-1]], {5: 5}],
    "suppress_tokens": [5, "ab", [VOCAB], [-1], [1.5], [[5]], list(range(VOCAB))],
    "begin_suppress_tokens": [5, "ab", [VOCAB], [None]],
    "forced_bos_token_id": [VOCAB, -1, "a", 1.5, True],
    "forced_eos_token_id": [VOCAB, -1, "a", [1, VOCAB], []],
    "eos_token_id": [VOCAB, -1, "</s>", 1.5, [], [1, VOCAB], True],
    "sequence_bias": [
        {},
        5,
        {5: 1.0},
        {(): 1.0},
        {(VOCAB,): 1.0},
        {(5,): "x"},
        {(5,): NAN},
        {(5,): INF},
        [[5, 1.0]],
        [[[5]]],
        "ab",
    ],
    "exponential_decay_length_penalty": [1.1, (5,), (5, NAN), (5, "x"), (5, 1e9), (0.5, 1.1), "ab"],
    "remove_invalid_values": ["True", 1, NAN],
    "renormalize_logits": ["True", 1],
}
CASES = [(name, value) for name, values in REFUSED.items() for value in values]


def test_every_argument_has_its_cases():
    assert set(REFUSED) == set(SHAPING)


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v!r}"[:40] for n, v in CASES])
def test_impossible_values(name, value):
    """Greedy requests, too: a value that makes no sense is not passed over in silence."""
    good = Request(PROMPT, 3)
    with pytest.raises(RequestError) as caught:
        ENGINE.decode([good, Request(PROMPT, 3, generation={name: value}, key="toy")])
    assert caught.value.message.startswith("request 1 (task 'toy'): ")
    assert f"{name} is {value!r}"[:40] in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.fix


ACCEPTED = {
    "top_k": [0, 3, np.int64(3), torch.tensor(3)],
    "top_p": [1, 1.0, 0.5, np.float32(0.5), torch.tensor(0.5)],
    "min_p": [0, 1, 0.1],
    "typical_p": [1, 0.4],
    "epsilon_cutoff": [0, 3e-4],
    "repetition_penalty": [1, 2, 1.3, np.float64(1.3)],
    "no_repeat_ngram_size": [0, 2, np.int32(2)],
    "bad_words_ids": [[[5], [9, 30]], np.array([[5], [9]]), [(5,)], [np.array([9, 30])]],
    "suppress_tokens": [[], [5, 6], (5, 6), torch.tensor([5, 6]), None],
    "sequence_bias": [{(5,): 2.0, (9, 30): -INF}, [[[5], 2.0]], {(5,): 2}],
    "exponential_decay_length_penalty": [(1, 1.5), [1, 2]],
    "forced_eos_token_id": [1, [1]],
    "eos_token_id": [1, [1, 7], np.int64(7), None],
    "min_new_tokens": [0, 2, None],
    "renormalize_logits": [True, False, None],
}
FINE = [(name, value) for name, values in ACCEPTED.items() for value in values]


@pytest.mark.parametrize(("name", "value"), FINE, ids=[f"{n}={v!r}"[:40] for n, v in FINE])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_possible_values(name, value, temperature):
    [result] = ENGINE.generate([PROMPT], max_new_tokens=4, temperature=temperature, **{name: value})
    assert result.token_ids


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, VOCAB + 3),
    st.sampled_from([10**30, 2**63, -(10**30)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 2),
    st.text(max_size=3),
    st.sampled_from([np.float32(0.5), np.int64(7), np.float64("nan"), np.bool_(True)]),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2), max_size=2),
    st.dictionaries(st.tuples(st.integers(-1, VOCAB)), SCALARS, max_size=2),
    st.tuples(st.integers(0, 5), SCALARS),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(SHAPING)), VALUES, st.sampled_from([0.0, 0.9]))
def test_any_value_is_accepted_or_refused_in_words(name, value, temperature):
    said = decoded(Request(PROMPT, 3, temperature=temperature, generation={name: value}))
    assert said == "" or f"{name} is" in said
    assert len(said) < 500


def decoded(request):
    """Decode a request; returns the words with which it is refused, if it is."""
    try:
        results = ENGINE.decode([request])
    except RequestError as error:
        return str(error)
    assert len(list(results)) == 1
    return ""


FIELDS: dict[str, list[object]] = {
    "max_new_tokens": [0, -1, 2.5, NAN, INF, "x", "5", True, [5]],
    "temperature": [-1, NAN, INF, "x", "0.5", True, [1.0], 1e-39],
    "seed": ["x", 1.5, NAN, [1]],
    "stop": [5, "ab", [""], [5], [None], b"ab", ["a\ud800"]],
    "prompts": [None, 5, "ab", [None], [5], [[5.0]], [["a"]], ["a\ud800b"], [b"ab"], [True]],
}
WRONG = [(name, value) for name, values in FIELDS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n}={v!r}"[:40] for n, v in WRONG])
def test_impossible_fields(name, value):
    with pytest.raises(RequestError) as caught:
        ENGINE.generate(**{"prompts": [PROMPT], "max_new_tokens": 3, name: value})
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    assert caught.value.fix
    assert name.rstrip("s") in caught.value.message or name == "prompts"


OTHER_WAYS = {  # argument of generate: its value, what is named instead
    "do_sample": (True, "temperature="),
    "stop_strings": (["x"], "stop="),
    "stopping_criteria": ([], "stop="),
    "max_length": (50, "max_new_tokens="),
    "num_return_sequences": (4, "prompt"),
    "streamer": (object(), "decode"),
    "generation_config": (tiny("llama").generation_config, "generation_config"),
    "logits_processor": ([], "processors"),
    "attention_mask": (torch.ones(1, 900), "padding"),
    "input_ids": (torch.ones(1, 900), "prompts"),
    "assistant_model": (tiny("llama"), "draft"),
    "tokenizer": (tiny_tokenizer(), "tokenizer"),
    "tempreature": (0.7, "temperature"),
    "num_beams": (4, "generate"),
    "max_time": (3.0, "generate"),
    "token_healing": (True, "generate"),
}


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_our_way_is_named(name):
    value, way = OTHER_WAYS[name]
    with pytest.raises(RequestError, match=f"generation argument {name} is ") as caught:
        ENGINE.generate([PROMPT], max_new_tokens=3, **{name: value})
    assert way in str(caught.value)
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message


CONFIGS = {
    "num_beams": 3,
    "num_beam_groups": 2,
    "num_return_sequences": 2,
    "guidance_scale": 1.5,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "force_words_ids": [[5]],
    "constraints": ["x"],
    "token_healing": True,
    "max_time": 2.0,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_generation_config_with_another_method_is_refused_by_name(name):
    decoder = engine(with_defaults(tiny("llama"), **{name: CONFIGS[name]}))
    with pytest.raises(RequestError, match=f"generation config has {name} ") as caught:
        decoder.generate([PROMPT], max_new_tokens=3)
    assert "generation_config.json" in caught.value.fix


@pytest.mark.parametrize(
    "defaults",
    [{"repetition_penalty": "x"}, {"bad_words_ids": [[VOCAB + 5]]}, {"sequence_bias": {5: 5}}],
    ids=str,
)
def test_a_generation_config_that_cannot_be_is_refused(defaults):
    decoder = engine(with_defaults(tiny("llama"), **defaults))
    with pytest.raises(RequestError, match="generation config") as caught:
        decoder.generate([PROMPT], max_new_tokens=3)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["encoder_repetition_penalty", "encoder_no_repeat_ngram_size"])
def test_penalties_on_the_prompt_do_what_they_do_in_generate(name):
    target, options = tiny("llama"), {name: 1 if name.endswith("size") else 1.8}
    config = FLyConfig(acceptance="native", spd_k=3)
    decoder = SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), config)
    answers = [r.token_ids for r in decoder.generate(prompts(4), max_new_tokens=20, **options)]
    assert answers == [generate(target, ids, 20, **options) for ids in prompts(4)]
    assert answers != [generate(target, ids, 20) for ids in prompts(4)]


def test_a_budget_of_the_generation_config_holds_where_the_call_gives_none():
    target = with_defaults(tiny("llama", eos_token_id=None), max_new_tokens=7)
    assert len(engine(target).generate([PROMPT])[0].token_ids) == 7
    assert len(engine(target).generate([PROMPT], max_new_tokens=9)[0].token_ids) == 9
    endless = SpeculativeDecoder(Tape("a"), None, Bytes(), FLyConfig(use_sd=False))
    assert len(endless.generate([[9]])[0].token_ids) == 256


def test_stop_strings_of_the_generation_config_end_answers():
    """As in `generate`, which takes the call's in their place where there are any."""
    target = Tape("abcdefgh")
    target.generation_config = copy.deepcopy(tiny("llama").generation_config)
    target.generation_config.stop_strings = ["d"]
    decoder = SpeculativeDecoder(target, None, Bytes(), FLyConfig(use_sd=False))
    [ended] = decoder.generate([[9]], max_new_tokens=7)
    assert (ended.text, ended.finish_reason) == ("abc", "stop")
    assert decoder.generate([[9]], max_new_tokens=7, stop=["f"])[0].text == "abcde"
    assert decoder.generate([[9]], max_new_tokens=7, stop=[])[0].text == "abcdefg"
    target.generation_config.stop_strings = "c"
    assert decoder.generate([[9]], max_new_tokens=7)[0].text == "ab"


@pytest.mark.parametrize("drafter", ["model", "multilevel", "ngram", "none"])
def test_the_call_may_name_its_own_end_tokens(drafter):
    target = tiny("llama")
    plain = [generate(target, ids, 20) for ids in prompts(6)]
    ends = sorted({ids[len(ids) // 2] for ids in plain})
    chosen = {"use_sd": False} if drafter == "none" else {"drafter": drafter}
    config = FLyConfig(acceptance="native", spd_k=4, **chosen)
    decoder = SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), config, batch_size=3)
    for eos in (ends[0], ends):
        results = decoder.generate(prompts(6), max_new_tokens=20, eos_token_id=eos)
        want = [generate(target, ids, 20, eos_token_id=eos) for ids in prompts(6)]
        assert [result.token_ids for result in results] == want
        assert "eos" in {result.finish_reason for result in results}
    assert [r.token_ids for r in decoder.generate(prompts(6), max_new_tokens=20)] == plain


def test_end_tokens_of_a_request_are_protected_as_the_models_are():
    """The draft's "c" in place of an unsure "x" is kept, but not where "x" ends the answer."""
    target, draft = Tape("abxdefgh", unsure={2}), Tape("abcdefgh")
    config = FLyConfig(spd_k=6, win_len=2, entropy_thre=0.1)
    decoder = SpeculativeDecoder(target, draft, Bytes(), config, batch_size=2)
    [loose] = decoder.generate([[9]], max_new_tokens=6)
    [ended] = decoder.generate([[9]], max_new_tokens=6, eos_token_id=ord("x"))
    assert loose.text.startswith("abc")
    assert ended.text.startswith("abx")
    assert ended.finish_reason == "eos"


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ENGINE.generate([PROMPT], max_new_tokens=3, encoder_repetition_penalty=1.2)
