"""lm-eval's generation arguments: null counts as absent, and all else is accepted or refused before
the first request is decoded, by task, key and value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.errors import RequestError
from fly.harness.answers import Answers
from fly.harness.gen_kwargs import wanted_temperature
from tests.harness.test_requests import instance, read

NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, list[object]] = {
    "until": [5, 0.5, True, [5], ["a", None], [["a"]], {"a": 1}, ["a\ud800"], b"ab"],
    "do_sample": ["x", "", 2, NAN, [True]],
    "temperature": ["x", NAN, INF, -1, True, [0.5], "nan"],
    "max_gen_toks": ["x", NAN, INF, 0, -3, 2.5, True, [5], "5.5"],
    "max_new_tokens": ["x", 0],
    "max_tokens": [NAN],
    "max_completion_tokens": [[]],
    "max_length": ["x", NAN, INF, -3, 0, 2.5, True],
    "top_p": [0, 2, NAN, "x"],
    "top_k": [-1, 2.5, "x"],
    "repetition_penalty": ["x", 0],
    "eos_token_id": ["</s>", -1, 1.5],
    "num_beams": [4, "x", NAN],
    "num_return_sequences": [2],
    "length_penalty": [2.0],
    "early_stopping": [True],
    "bad_words_ids": [np.array([5])],
    "stop": [["x"]],
    "stop_strings": ["x"],
    "seed": [5],
}
CASES = [(name, value) for name, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v!r}"[:40] for n, v in CASES])
@pytest.mark.parametrize("more", [{}, {"do_sample": True, "temperature": 0.8}], ids=["", "drawn"])
def test_impossible_values(name, value, more):
    with pytest.raises(RequestError) as caught:
        read(instance(), instance(**(more | {name: value})))
    message = caught.value.message
    assert "task 'toy'" in message
    assert name in message
    assert repr(value)[:30] in message
    assert len(str(caught.value)) < 400
    assert caught.value.fix


WAYS = {
    "max_gen_toks": (0, "at least"),
    "until": (5, "until"),
    "stop": (["x"], "until"),
    "stop_strings": ("x", "until"),
    "seed": (5, "--seed"),
    "num_return_sequences": (2, "repeats"),
    "tempreature": (0.5, "temperature"),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_is_named(name):
    value, way = WAYS[name]
    with pytest.raises(RequestError) as caught:
        read(instance(**{name: value}))
    assert way in str(caught.value)
    assert "context" not in str(caught.value)


NULLS = ["until", "do_sample", "temperature", "max_gen_toks", "max_length", "top_p", "num_beams"]


@pytest.mark.parametrize("name", [*NULLS, "eos_token_id", "max_tokens", "suppress_tokens"])
def test_null_counts_as_absent(name):
    given = {"until": ["\n"], "max_gen_toks": 5}
    given.pop(name, None)
    assert read(instance(**given, **{name: None})) == read(instance(**given))


SAME = [
    ({"until": ("a", "b")}, {"until": ["a", "b"]}),
    ({"until": "a"}, {"until": ["a"]}),
    ({"until": [np.str_("a")]}, {"until": ["a"]}),
    ({"do_sample": "False", "temperature": 0.7}, {"do_sample": False}),
    ({"do_sample": "true", "temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
    ({"do_sample": 0}, {"do_sample": False}),
    ({"do_sample": np.bool_(False)}, {"do_sample": False}),
    ({"temperature": "0.7"}, {"temperature": 0.7}),
    ({"temperature": np.float64(0.5)}, {"temperature": 0.5}),
    ({"max_gen_toks": "5"}, {"max_gen_toks": 5}),
    ({"max_gen_toks": 5.0}, {"max_gen_toks": 5}),
    ({"max_gen_toks": np.int64(5)}, {"max_gen_toks": 5}),
    ({"max_tokens": 9, "max_new_tokens": 5}, {"max_gen_toks": 5}),
    ({"num_beams": 1.0, "use_cache": False, "pad_token_id": 2}, {"num_beams": 1}),
]


@pytest.mark.parametrize(("given", "plain"), SAME, ids=[str(one)[:40] for one, _ in SAME])
def test_forms_of_the_same(given, plain):
    [one], [other] = read(instance(**given)), read(instance(**plain))
    assert one == other


def test_end_tokens_are_the_requests_and_the_tokenizers():
    """As in hf, whose stop strings hold the tokenizer's own."""
    [request] = read(instance(eos_token_id=7))
    assert request.eos_ids == {7, 1}
    [request] = read(instance(eos_token_id=[7, 8, 1]))
    assert request.eos_ids == {7, 8, 1}
    assert read(instance())[0].eos_ids is None


def test_ids_are_the_targets():
    with pytest.raises(RequestError, match=r"task 'toy': eos_token_id is 99, .* \(0 to 98\)"):
        read(instance(eos_token_id=99), vocab_size=99)
    assert read(instance(eos_token_id=98), vocab_size=99)


def test_a_lone_surrogate_in_a_prompt_names_task_and_document():
    with pytest.raises(RequestError, match=r"task 'toy', document 7.*'\\ud800' at char") as caught:
        read(instance("ab"), instance("a" * 40 + "\ud800" + "b" * 400))
    assert len(str(caught.value)) < 300


def test_keys_that_are_no_text_have_a_journal_key():
    """No journal is kept here; the key of a request is made nevertheless."""
    asked = [instance(sequence_bias={(5, 9): 2.0}), instance(sequence_bias={(5,): 2.0, 3: 1.0})]
    answers = Answers(asked, None, 0.0)
    assert len(set(answers._keys)) == 2
    assert read(asked[0])[0].generation == {"sequence_bias": [[[5, 9], 2.0]]}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.just(10**30),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.text(max_size=2), st.integers(-1, 9), st.none()), max_size=3),
    st.dictionaries(st.tuples(st.integers(0, 9)), st.floats(), max_size=2),
    st.sampled_from([np.float32(0.5), np.int64(7), np.bool_(False)]),
)
KEYS = st.sampled_from([*REFUSED, "sequence_bias", "min_p", "guidance_scale", "unheard_of"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_arguments_are_accepted_or_refused_in_words(gen_kwargs):
    said = refusal(gen_kwargs)
    assert said == "" or "task 'toy'" in said
    assert said == "" or any(key in said for key in gen_kwargs)
    assert len(said) < 500


def refusal(gen_kwargs):
    """The words with which a request of these arguments is refused; nothing where it is not."""
    asked = instance(**gen_kwargs)
    try:
        temperature = wanted_temperature(gen_kwargs, 0.0, "task 'toy'")
        Answers([asked], None, 0.0)
        [request] = read(asked)
    except RequestError as error:
        return str(error)
    assert request.temperature == temperature
    return ""
