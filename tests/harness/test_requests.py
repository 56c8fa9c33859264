"""Instances to requests and results to answers, by HFLM's rules."""

import logging

import pytest
from lm_eval.api.instance import Instance

from fly.config import FLyConfig
from fly.engine import Result, Statistics, Thinking
from fly.errors import RequestError
from fly.harness.requests import RequestReader
from tests.harness.pairs import byte_tokenizer


def reader(**settings):
    given = {
        "tokenizer": byte_tokenizer(),
        "config": FLyConfig(
            total_gen_tok=settings.pop("total_gen_tok", None),
            temperature=settings.pop("temperature", 0.0),
        ),
        "max_context": 64,
        "default_max_gen_toks": 20,
        "prefix_token_id": 0,
    }
    return RequestReader(**(given | settings))


def instance(context="ab", **gen_kwargs):
    return Instance(
        request_type="generate_until",
        doc={},
        arguments=(context, gen_kwargs),
        idx=0,
        metadata=("toy", 7, 1),
    )


def read(*instances, **settings):
    return [one.request for one in reader(**settings).read(instances, range(len(instances)))]


def result(text, token_ids=()):
    return Result(list(token_ids), text, "stop", Statistics())


def test_prompt_stop_budget_and_key():
    [request] = read(instance("ab", until=["\n", "</s>", ""], max_gen_toks=5))
    assert request.prompt_ids == tuple(byte_tokenizer()("ab")["input_ids"])
    assert (request.stop, request.max_new_tokens, request.key) == (("\n",), 5, "toy")


def test_arguments_stay_as_they_are():
    asked = instance(until="\n", max_gen_toks=5)
    read(asked)
    assert asked.args[1] == {"until": "\n", "max_gen_toks": 5}


@pytest.mark.parametrize(
    ("gen_kwargs", "total", "budget"),
    [
        ({}, None, 20),
        ({"max_new_tokens": 7}, None, 7),
        ({"max_gen_toks": 7}, 4, 4),
        ({"max_gen_toks": 7}, 100, 7),
        ({"max_length": 10}, None, 8),
    ],
)
def test_budget(gen_kwargs, total, budget):
    [request] = read(instance("ab", **gen_kwargs), total_gen_tok=total)
    assert request.max_new_tokens == budget


def test_long_prompts_are_cut_from_the_left_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        long, short = read(instance("x" * 70 + "yz"), instance("ab"))
    assert len(long.prompt_ids) == 64 - 20
    assert byte_tokenizer().decode(long.prompt_ids).endswith("xyz")
    assert len(short.prompt_ids) == 2
    [record] = caplog.records
    assert record.getMessage().startswith("1 of 2 prompts")


def test_one_token_prompt():
    assert len(read(instance("a"))[0].prompt_ids) == 1


def test_empty_prompt_becomes_the_prefix_token():
    assert read(instance(""))[0].prompt_ids == (0,)
    with pytest.raises(RequestError, match="empty"):
        read(instance(""), prefix_token_id=None)


def test_bos_is_not_doubled():
    assert read(instance("<s>a"), add_bos_token=True)[0].prompt_ids.count(0) == 1


REFUSED = {
    "sampling without a temperature": {"do_sample": True},
    "sampling at temperature 0": {"do_sample": True, "temperature": 0.0},
    "beams": {"num_beams": 4},
    "unknown to generate": {"top_sigma": 1.2},
    "budget as long as the context": {"max_gen_toks": 64},
    "no budget": {"max_gen_toks": 0},
    "max_length below the prompt": {"max_length": 1},
}


@pytest.mark.parametrize("gen_kwargs", REFUSED.values(), ids=REFUSED)
def test_refused(gen_kwargs):
    with pytest.raises(RequestError) as caught:
        read(instance("ab", **gen_kwargs))
    assert "toy" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("gen_kwargs", "configured", "temperature"),
    [
        ({}, 0.0, 0.0),
        ({}, 0.6, 0.6),
        ({"do_sample": False}, 0.6, 0.0),
        ({"do_sample": False, "temperature": 0.8}, 0.0, 0.0),
        ({"temperature": 0.0}, 0.6, 0.0),
        ({"temperature": 0.8}, 0.0, 0.8),
        ({"do_sample": True, "temperature": 0.8}, 0.6, 0.8),
        ({"do_sample": None, "temperature": 0.8}, 0.6, 0.8),
        ({"do_sample": True}, 0.6, 0.6),
    ],
)
def test_temperature(gen_kwargs, configured, temperature):
    [request] = read(instance("ab", **gen_kwargs), temperature=configured)
    assert request.temperature == temperature


def test_what_shapes_the_distribution_goes_to_the_engine():
    shaping = {"top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2}
    [request] = read(instance("ab", do_sample=True, temperature=1.0, num_beams=1, **shaping))
    assert request.generation == {**shaping, "num_beams": 1}
    assert request.seed == 0


def test_harmless_arguments_are_accepted():
    read(instance(do_sample=False, temperature=0.7, top_p=0.9, num_beams=1, repetition_penalty=1.0))


def test_answer_ends_before_the_stop_string():
    one = reader()
    [prepared] = one.read([instance(until=["Q:"])], [0])
    assert one.answer(prepared, result("fine Q: next")) == "fine "


THINKING = {  # prompt, marker, enable_thinking; whether it is over before the answer
    "a prompt like any other": ("ab", "</think>", None, False),
    "switched on": ("ab", "</think>", True, False),
    "switched off": ("ab", "</think>", False, True),
    "opened by the prompt": ("ab<think>", "</think>", None, False),
    "ended by the prompt": ("ab<think>\n\n</think>\n\n", "</think>", None, True),
    "ended in an earlier turn": ("<think>a</think>b\nab<think>\n", "</think>", None, False),
    "ended by the prompt, switched on": ("ab<think></think>", "</think>", True, True),
    "a marker without an opening": ("ab END c", "END", None, True),
    "by id": ("abc", 3, None, True),
}


@pytest.mark.parametrize(("context", "end", "enabled", "is_over"), THINKING.values(), ids=THINKING)
def test_where_thinking_is_over_before_the_answer(context, end, enabled, is_over):
    if isinstance(end, int):
        end = byte_tokenizer()("c")["input_ids"][0]
    [request] = read(instance(context), think_end_token=end, enable_thinking=enabled)
    assert request.thinking == Thinking(end, is_over=is_over)


def test_without_a_marker_nothing_is_thought():
    [request] = read(instance("a</think>b"), enable_thinking=True)
    assert request.thinking is None


def test_a_special_token_is_a_marker_by_its_id():
    """HFLM looks for it in a text that does not show it, and takes the thinking for the answer."""
    tokenizer = byte_tokenizer()
    one = reader(think_end_token="<pad>")
    [prepared] = one.read([instance(until=["Q:"])], [0])
    assert prepared.request.thinking == Thinking(2)
    ids = [*tokenizer("hm. Q:")["input_ids"], 2, *tokenizer(" yes")["input_ids"]]
    assert one.answer(prepared, result("hm. Q: yes", ids)) == "yes"


def test_thinking_is_cut():
    text = reader(think_end_token="END")
    [prepared] = text.read([instance(until=["Q:"])], [0])
    assert text.answer(prepared, result("a END  b")) == "b"
    tokenizer = byte_tokenizer()
    ids = tokenizer("hm. yes")["input_ids"]
    marked = reader(think_end_token=tokenizer("hm.")["input_ids"][-1])
    assert marked.answer(prepared, result("hm. yes", ids)) == "yes"


def test_ends_of_the_generation_config(caplog):
    """Its stop strings hold beside the task's and are cut off; its budget does not."""
    one = reader(stop_strings=("STOP",), idle_budget=9)
    with caplog.at_level(logging.WARNING):
        first, _ = one.read([instance(until=["Q:"]), instance()], [0, 1])
    assert first.request.stop == ("Q:", "STOP")
    assert first.request.max_new_tokens == 20
    assert one.answer(first, result("fine STOP next")) == "fine "
    [record] = caplog.records
    assert "max_new_tokens 9" in record.getMessage()
