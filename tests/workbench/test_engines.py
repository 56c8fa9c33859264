"""What decodes: our engine and transformers' own `generate`, which must say the same."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch

from fly.config import FLyConfig
from fly.demo.problems import heldout
from fly.engine import Request, SpeculativeDecoder
from fly.errors import ConfigError
from fly.harness import FLyLM
from fly.workbench.divergence import compare
from fly.workbench.generate import GenerateEngine
from fly.workbench.local import DraftEngine, OwnEngine, share
from fly.workbench.methods import parse_methods
from fly.workbench.plan import check_tokenizers
from tests.drafting.foreign import byte_level
from tests.harness import pairs
from tests.models import demo_model, demo_tokenizer, generated, prompts, tiny, tiny_tokenizer
from tests.workbench.made_up import loaded


@functools.cache
def demo_requests():
    """Six problems: some end by themselves, some at a stop string, some at their budget."""
    problems = [p for kind in ("arithmetic", "code") for p in heldout(kind, 3, seed=5)]
    return [
        Request(
            tuple(demo_tokenizer()(problem.prompt).input_ids),
            (40, 12)[place % 2],
            ("\n\nQuestion:", "is") if place % 3 == 0 else (" ",) if place % 3 == 1 else (),
            key=str(place),
        )
        for place, problem in enumerate(problems)
    ]


@functools.cache
def engine_results():
    config = FLyConfig(use_sd=False)
    decoder = SpeculativeDecoder(demo_model("target"), None, demo_tokenizer(), config, batch_size=3)
    return dict(decoder.decode(demo_requests()))


ENGINES = {
    "batched": (3, {}),
    "alone": (1, {}),
    "assisted": (1, {"assistant_model": "draft"}),
    "prompt lookup": (1, {"prompt_lookup_num_tokens": 10}),
}


@pytest.mark.parametrize(("batch_size", "given"), ENGINES.values(), ids=ENGINES)
def test_greedy_text_is_the_engines(batch_size, given):
    options = {
        key: demo_model(value) if key == "assistant_model" else value
        for key, value in given.items()
    }
    engine = GenerateEngine(loaded(demo_model("target"), demo_tokenizer()), batch_size, options)
    found = dict(engine.decode(demo_requests()))
    assert sorted(found) == list(range(6))
    for place, own in engine_results().items():
        request, other = demo_requests()[place], found[place]
        verdict = compare(demo_model("target"), request.prompt_ids, own.token_ids, other.token_ids)
        assert verdict in ("equal", "tie")
        if verdict == "equal":
            assert (other.text, other.finish_reason) == (own.text, own.finish_reason)
        assert other.key == request.key
        assert other.statistics.emitted == len(other.token_ids)
        assert other.statistics.prompt_tokens == len(request.prompt_ids)
        assert other.statistics.seconds > 0
    assert {each.finish_reason for each in found.values()} >= {"stop", "length"}


# --- how requests are put together


class Recording:
    """A model that notes what `generate` is asked and answers with one token each."""

    device = torch.device("cpu")

    def __init__(self):
        self.config, self.generation_config = tiny("llama").config, tiny("llama").generation_config
        self.calls = []

    def generate(self, input_ids, attention_mask, **options):
        self.calls.append((input_ids, attention_mask, options, torch.initial_seed()))
        return torch.cat([input_ids, torch.full((len(input_ids), 1), 7)], dim=1)


def calls(requests, batch_size=3, **options):
    model = Recording()
    engine = GenerateEngine(loaded(model, tiny_tokenizer()), batch_size, options)
    found = dict(engine.decode(requests))
    assert sorted(found) == list(range(len(requests)))
    return model.calls


def request(length=2, **more):
    return Request(tuple(range(4, 4 + length)), **{"max_new_tokens": 5, **more})


DIFFERENT = {
    "budget": {"max_new_tokens": 6},
    "stop": {"stop": ("a",)},
    "temperature": {"temperature": 0.5},
    "shape": {"temperature": 0.5, "generation": {"top_k": 3}},
}


def test_what_asks_for_different_things_shares_no_batch():
    kinds = [{}, *DIFFERENT.values()]
    asked = [request(**kind) for kind in kinds for _ in range(2)]
    made = calls(asked, batch_size=16)
    assert [len(ids) for ids, *_ in made] == [2] * len(kinds)
    assert [options["max_new_tokens"] for _, _, options, _ in made] == [5, 6, 5, 5, 5]
    assert ["stopping_criteria" in options for _, _, options, _ in made] == [0, 0, 1, 0, 0]
    assert [options["do_sample"] for _, _, options, _ in made] == [0, 0, 0, 1, 1]
    assert made[4][2]["top_k"] == 3


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [2, 2]), (7, [2, 2, 3]), (1, [1])])
def test_batches_are_even_and_sorted_by_length(count, sizes):
    made = calls([request(length) for length in range(1, count + 1)])
    assert [len(ids) for ids, *_ in made] == sizes
    lengths = [length for _, mask, *_ in made for length in mask.sum(1).tolist()]
    assert lengths == list(range(count, 0, -1))


def test_prompts_are_padded_on_the_left():
    [(ids, mask, *_)] = calls([request(1), request(3)])
    assert ids.tolist() == [[4, 5, 6], [2, 2, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_options_of_the_method_reach_generate():
    [(*_, options, _)] = calls([request()], prompt_lookup_num_tokens=10)
    assert options["prompt_lookup_num_tokens"] == 10
    assert (options["do_sample"], options["temperature"], options["top_k"]) == (False, None, None)


# --- sampling


def sampled(seed, batch_size=1):
    asked = [
        Request(ids, 12, temperature=1.0, seed=seed + place) for place, ids in enumerate(prompts(3))
    ]
    engine = GenerateEngine(loaded(tiny("llama"), tiny_tokenizer()), batch_size)
    return [result.token_ids for _, result in sorted(engine.decode(asked))]


def test_a_seed_draws_the_same_again_and_another_does_not():
    assert sampled(11) == sampled(11)
    assert sampled(11) != sampled(12)


def test_the_callers_own_random_numbers_stay_as_they_are():
    torch.manual_seed(3)
    before, state = torch.initial_seed(), torch.get_rng_state()
    sampled(11)
    assert torch.initial_seed() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_huge_seed():
    assert calls([request(temperature=0.5, seed=2**64 + 5)])[0][3] == 5


# --- our engine


class Watched:
    """A decoder that notes when its caches are given up."""

    def __init__(self, fails):
        self.fails, self.log = fails, []

    def decode(self, requests):
        for place, _ in enumerate(requests):
            if self.fails and place == 1:
                raise torch.OutOfMemoryError("full")
            self.log.append("decoded")
            yield place, None

    def release(self):
        self.log.append("released")


def test_caches_are_given_up_behind_every_call():
    decoder = Watched(fails=False)
    engine = OwnEngine(None, decoder)
    for _ in range(2):
        assert len(list(engine.decode([request(), request()]))) == 2
    assert decoder.log == ["decoded", "decoded", "released"] * 2


def test_caches_are_given_up_behind_a_failure_too():
    decoder = Watched(fails=True)
    with pytest.raises(torch.OutOfMemoryError):
        list(OwnEngine(None, decoder).decode([request(), request()]))
    assert decoder.log == ["decoded", "released"]


def test_a_call_does_not_find_the_prompts_of_the_one_before():
    decoder = SpeculativeDecoder(
        tiny("llama"), None, tiny_tokenizer(), FLyConfig(use_sd=False), batch_size=2
    )
    engine = OwnEngine(None, decoder)
    asked = [Request(ids, 6) for ids in prompts(3)]
    one, other = (dict(engine.decode(asked)) for _ in range(2))
    assert [each.token_ids for each in one.values()] == [each.token_ids for each in other.values()]
    assert [each.statistics.plain for each in one.values()] == [
        each.statistics.plain for each in other.values()
    ]


# --- a draft with another tokenizer


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """A loaded pair whose tokenizers exchange two letters."""
    from fly.harness import FLyLM

    folder = tmp_path_factory.mktemp("swapped")
    target = pairs.save_model(folder / "target", seed=0)
    draft = pairs.save_model(folder / "draft", seed=1)
    pairs.byte_tokenizer(swap=("A", "B")).save_pretrained(draft)
    config = pairs.save_config(folder / "toy.json", target, dual_tok=True)
    return FLyLM(pretrained=str(draft), config_path=str(config), device="cpu")


def test_methods_on_a_draft_with_another_tokenizer(swapped):
    names = ["other_tokenizer+native", "native", "hf_assisted", "ngram+native", "hf_generate"]
    methods = parse_methods(names, swapped.fly_config, 2)
    prompts = [tuple(swapped.tokenizer(text).input_ids) for text in ("ABBA:", "A man, a B")]
    answers = {}
    for method in methods:
        check_tokenizers(method, swapped)
        engine = method.open(swapped)
        found = dict(engine.decode([Request(ids, 20) for ids in prompts]))
        answers[method.name] = [found[index].token_ids for index in range(len(prompts))]
    assert len(answers) == 6
    assert all(answer == answers["target"] for answer in answers.values())


@pytest.mark.parametrize("name", ["model+native", "multilevel+fly", "draft"])
def test_methods_that_do_not_translate_are_refused(swapped, name):
    [_, method] = parse_methods([name], swapped.fly_config, 2)
    with pytest.raises(ConfigError, match="their tokenizers differ"):
        check_tokenizers(method, swapped)


def test_assisted_by_a_draft_with_another_vocabulary():
    [_, method] = parse_methods(["hf_assisted"], FLyConfig(draft_model_path="a/b"), 2)
    own, draft = byte_level(), tiny("llama", 3, vocab_size=len(byte_level()), eos_token_id=0)
    lm = SimpleNamespace(
        model=demo_model("target"),
        draft=draft,
        tokenizer=demo_tokenizer(),
        draft_tokenizer=own,
        end_ids=(),
    )
    check_tokenizers(method, lm)
    engine = method.open(lm)
    requests = [
        Request(tuple(demo_tokenizer()(text).input_ids), 12) for text in ("The sum", "def f(")
    ]
    answers = {index: result.token_ids for index, result in engine.decode(requests)}
    for index, request in enumerate(requests):
        assert answers[index] == generated(demo_model("target"), request.prompt_ids, 12)


def test_stop_strings_of_the_generation_config_do_not_end_generate():
    """Without a tokenizer, it refuses to begin."""
    model = copy.deepcopy(tiny("llama"))
    model.generation_config.stop_strings = ["a"]
    asked = [Request(ids, 12, ("a",)) for ids in prompts(3)]
    theirs = dict(GenerateEngine(loaded(model, tiny_tokenizer()), 2).decode(asked))
    ours = dict(
        SpeculativeDecoder(model, None, tiny_tokenizer(), FLyConfig(use_sd=False)).decode(asked)
    )
    assert [theirs[n].token_ids for n in range(3)] == [ours[n].token_ids for n in range(3)]


def test_end_tokens_of_requests_are_those_of_generate():
    model, asked = tiny("llama"), prompts(4)
    ends = [generated(model, ids, 12)[-1] for ids in asked]
    requests = [
        Request(ids, 12, generation={"eos_token_id": end})
        for ids, end in zip(asked, ends, strict=True)
    ]
    theirs = dict(GenerateEngine(loaded(model, tiny_tokenizer()), 2).decode(requests))
    assert [theirs[n].finish_reason for n in range(4)] == ["eos"] * 4
    assert [theirs[n].token_ids[-1] for n in range(4)] == ends
    assert len({*ends}) > 1


@pytest.mark.parametrize(("given", "found"), [("auto", "off"), ("on", "on"), ("off", "off")])
def test_all_methods_are_compiled_or_none(pair, given, found):
    """`auto` would decide for each by its own tokens, and by what lies in the cache."""
    lm = FLyLM(config_path=str(pair.config), device="cpu", compile=given)
    for engine in (OwnEngine, DraftEngine):
        opened = engine.open(lm, lm.fly_config.changed(use_sd=False), 2, trace=False)
        assert opened.decoder.config.compile == found
    points = share(lm, {"a": lm.fly_config.changed(draft_length="fixed")}, 2).points
    assert {config.compile for config in points.values()} == {found}
