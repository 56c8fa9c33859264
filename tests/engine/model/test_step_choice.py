"""Whether forwards are compiled, with steps that need no compiler: what is asked for, what pays,
what cannot be, and that texts stay what they are."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder, Statistics
from fly.engine.model import step_choice
from fly.engine.model.compiling import why_eager
from fly.engine.model.graph import StepKind
from fly.engine.model.packed import FixedLinear, fixed_view, packed_weights
from fly.engine.model.packing_gains import is_available
from fly.engine.model.step_choice import CompiledSteps
from fly.engine.self_draft.int8 import in_int8
from fly.errors import FLyWarning
from tests.engine.model.steps import KINDS, CallingBackend
from tests.models import blurred, prompts, tiny, tiny_tokenizer

SINGLE = [kind for kind in KINDS if kind.is_single]
SEVERAL = [kind for kind in KINDS if not kind.is_single]
ROLES = "target", "draft"
TOKEN, TOKENS = (StepKind(is_single=False, is_long=is_long) for is_long in (False, True))


def decoder(backend=None, batch_size=3, draft=None, target=None, **keys):
    """Of tiny models, with steps of a test's own."""
    target = tiny("llama") if target is None else target
    draft = blurred(tiny("llama")) if draft is None else draft
    config = FLyConfig(**{"drafter": "model", "spd_k": 4, "acceptance": "native"} | keys)
    made = SpeculativeDecoder(target, draft, tiny_tokenizer(), config, batch_size=batch_size)
    made._models.compiled = CompiledSteps(backend or CallingBackend())
    return made


def answers(made, count=3, tokens=8):
    """Texts, and the pooled counters."""
    results = made.generate(prompts(count), max_new_tokens=tokens)
    total = sum((result.statistics for result in results), Statistics())
    return [result.token_ids for result in results], total


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_stay_the_same(batch_size):
    """Of rules and drafters that ask for all kinds of forwards, over the same models."""
    backend = CallingBackend()
    eager = decoder(backend, batch_size, compile="off")
    runs = [
        {},
        {"acceptance": "fly", "win_len": 2, "entropy_thre": 0.0},
        {"temperature": 0.9},
        {"use_sd": False, "drafter": None},
        {"drafter": "ngram", "draft_length": "fixed"},
    ]
    for keys in runs:
        config = {"drafter": "model", "acceptance": "native", "spd_k": 4, **keys}
        want, plain = answers(eager.with_config(FLyConfig(compile="off", **config)), 4)
        assert not backend.made or keys is not runs[0]
        assert plain.seconds_compile == 0
        on = eager.with_config(FLyConfig(compile="on", **config))
        got, counts = answers(on, 4)
        assert got == want
        assert on.compiled.told["target"] == "compiled"
        assert counts.rounds == plain.rounds
    assert set(backend.made) == set(SINGLE if batch_size == 1 else KINDS)
    assert len(backend.made) == 2 * (2 if batch_size == 1 else 4)  # each once


def test_compiling_is_a_phase_of_its_own():
    made = decoder(compile="on")
    said = []
    made.compiled.on_start = said.append
    _, first = answers(made)
    assert first.seconds_compile > first.seconds - first.seconds_prefill > 0
    assert first.metrics()["tokens_per_s"] == first.emitted / first.seconds
    assert said == ["compiling the target", "compiling the draft"]
    _, second = answers(made)
    assert second.seconds_compile == 0
    assert len(said) == 2


def test_trees_run_eagerly():
    backend = CallingBackend()
    made = decoder(backend, compile="on", drafter="tree")
    said = refused(made, compile="off", drafter="tree")
    assert [each.partition(": ")[2] for each in said] == [
        "trees are read with masks of their own"
    ] * 2
    assert backend.made == []
    assert "trees" in made.compiled.told["target"]


@pytest.mark.parametrize("compiles", ["on", "auto"])
def test_what_was_asked_for_and_cannot_be_is_said(compiles, monkeypatch):
    monkeypatch.setattr(step_choice, "why_eager", lambda model: "it has adapters")
    made = decoder(compile=compiles)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers(made)
        answers(made)
    said = [str(each.message) for each in caught]
    told = [f"the {role}, LlamaForCausalLM, runs eagerly: it has adapters" for role in ROLES]
    assert said == (told if compiles == "on" else [])
    assert made.compiled.told == dict.fromkeys(ROLES, "eager: it has adapters")


def test_auto_leaves_short_runs_alone():
    backend = CallingBackend()
    made = decoder(backend, compile="auto")
    answers(made)
    assert backend.made == []
    assert made.compiled.told["draft"] == "eager: it would not pay for so few tokens"


def test_auto_takes_what_is_there():
    backend = CallingBackend(kept={TOKEN, TOKENS})
    made = decoder(backend, compile="auto")
    answers(made)
    assert made.compiled.told == {"target": "compiled", "draft": "compiled"}


@pytest.mark.parametrize("kept", [SEVERAL, KINDS], ids=["rows", "rows and row"])
def test_the_last_row_of_a_batch(kept):
    """Its steps alone are not worth a compilation."""
    backend = CallingBackend(kept=set(kept))
    made = decoder(backend, compile="auto")
    want, _ = answers(decoder(compile="off"), 4)
    assert answers(made, 4)[0] == want
    assert set(backend.made) == set(kept)


def test_auto_compiles_where_it_pays(monkeypatch):
    """What a forward wastes, times as many as are expected, against the price."""
    monkeypatch.setattr(step_choice, "overhead", lambda served, num_rows, n: 0.01)
    made = decoder(compile="auto")
    made.compiled.on_start = lambda line: None
    # Of 3 rows in 100,000 rounds of at least one token a quarter is expected.
    work = step_choice.Work(3, 900_000, made.config.setup)
    forwards = work.forwards(is_draft=True)
    assert forwards == {TOKEN: 3 * 25_000, TOKENS: 25_000}
    served = made.pair.draft
    assert made.compiled._pays(served, forwards, work, 2)
    few = step_choice.Work(3, 9_000, made.config.setup)
    assert not made.compiled._pays(served, few.forwards(is_draft=True), few, 2)


def test_overhead_is_measured():
    served = decoder().pair.target
    small = step_choice.overhead(served, 1, 1)
    assert 0 < small < 1
    assert step_choice.inner_size(torch.nn.Linear(3, 5)) == 3
    assert step_choice.inner_size(tiny("gpt2").transformer.h[0].mlp.c_fc) == 32
    assert step_choice.inner_size(tiny("llama").model) is None


def refused(made, **eager):
    """What was said, once, although it decodes twice."""
    with pytest.warns(FLyWarning, match="runs eagerly") as caught:
        texts, _ = answers(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(made)[0] == texts
    assert texts == answers(decoder(**(eager or {"compile": "off"})))[0]
    return [str(each.message) for each in caught]


def test_no_compiler_is_said_once():
    said = refused(decoder(CallingBackend(missing="there is no C++ compiler"), compile="on"))
    assert len(said) == 2
    assert all("there is no C++ compiler" in line for line in said)
    assert "the target, LlamaForCausalLM," in said[0]


def test_a_step_that_is_wrong_is_not_used():
    backend = CallingBackend(factor=1.01)
    assert all("off by 0.01" in line for line in refused(decoder(backend, compile="on")))


def test_a_model_that_cannot_be_traced(monkeypatch):
    def fail(*given):
        raise NotImplementedError("no such operator\nand more")

    backend = CallingBackend()
    monkeypatch.setattr(backend, "make", fail)
    said = refused(decoder(backend, compile="on"))
    assert all("NotImplementedError: no such operator" in line for line in said)
    assert all("and more" not in line for line in said)


@torch.no_grad()
def test_what_a_traced_forward_would_not_follow():
    model = tiny("llama")
    assert why_eager(model) is None
    hooked = copy.deepcopy(model)
    hooked.model.layers[1].register_forward_hook(lambda *given: None)
    assert why_eager(hooked) == "model.layers.1 has hooks"
    moved = copy.deepcopy(model)
    moved.lm_head._hf_hook = object()
    assert why_eager(moved) == "lm_head has hooks"
    replaced = copy.deepcopy(model)
    replaced.forward = model.forward
    assert why_eager(replaced) == "the forward of the model was replaced"
    adapted = copy.deepcopy(model)
    adapted._hf_peft_config_loaded = True
    assert "adapters" in why_eager(adapted)
    quantised = copy.deepcopy(model)
    quantised.config.quantization_config = {"bits": 4}
    assert "quantised" in why_eager(quantised)
    from_gguf = copy.deepcopy(model)
    from_gguf.config.quantization_config = SimpleNamespace(quant_method="gguf")
    from_gguf.is_quantized = True
    assert why_eager(from_gguf) is None
    from_gguf.register_buffer("blocks", torch.zeros(3, dtype=torch.uint8))
    assert "quantised" in why_eager(from_gguf)
    assert "quantised" in why_eager(in_int8(model)), "self drafts in 8 bits"
    assert "on meta" in why_eager(copy.deepcopy(model).to("meta"))
    adapted._orig_mod = model
    assert "compiled already" in why_eager(adapted)
    with torch.autocast("cpu"):
        assert "autocast" in why_eager(model)
    assert "no transformers model" in why_eager(object())


@pytest.mark.skipif(not is_available(), reason="this torch packs no weights")
def test_steps_are_made_anew_where_weights_are_packed_anew():
    """A step reads the packed copy that was there when it was made."""
    target = copy.deepcopy(tiny("llama", hidden_size=128, intermediate_size=256))
    backend = CallingBackend()
    made = decoder(backend, compile="on", packed="on", target=target, drafter="ngram")
    answers(made)
    layers = [
        part
        for part in fixed_view(made.pair.target.view, 8).modules()
        if isinstance(part, FixedLinear)
    ]
    assert len(layers) == len(packed_weights(made.pair.target.view)) > 0
    assert len(backend.made) == 4
    answers(made)
    assert len(backend.made) == 4
    with torch.no_grad():
        target.model.layers[0].mlp.up_proj.weight.mul_(-1)
    made.release()  # keys and values of the weights as they were
    texts, _ = answers(made)
    assert len(backend.made) == 8
    plain = decoder(compile="off", packed="off", target=target, drafter="ngram")
    assert texts == answers(plain)[0]


def test_hooks_that_come_later_are_seen():
    target = copy.deepcopy(tiny("llama"))
    made = decoder(compile="on", target=target)
    answers(made)
    assert made.compiled.told["target"] == "compiled"
    calls = []
    handle = target.model.layers[0].register_forward_hook(lambda *given: calls.append(1))
    with pytest.warns(FLyWarning, match=r"the target, .*: model\.layers\.0 has hooks"):
        answers(made)
    assert calls
    handle.remove()
    answers(made)
    assert made.compiled.told["target"] == "compiled"
