"""A draft made of the target: found once, made once, and the target's text and weights stay."""

import copy
import logging

import pytest
import torch
from torch import nn

from fly.config import FLyConfig
from fly.drafting.self_draft import SelfSettings
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.model.slots import SlotModel
from fly.engine.self_draft import build as self_draft
from fly.engine.self_draft.build import calibration_ids, derive_draft
from fly.engine.self_draft.int8 import Int8Linear
from fly.engine.self_draft.model_view import layer_list
from fly.errors import ConfigError, FLyWarning, ModelError
from tests.engine.architectures import FAMILIES
from tests.engine.self_draft.test_layer_search import idle
from tests.engine.self_draft.test_model_view import assert_unchanged, snapshot
from tests.models import (
    ARCHITECTURES,
    CONTEXT,
    Tape,
    assert_same,
    generated,
    prompts,
    tiny,
    tiny_tokenizer,
)

WAYS = {"layers": {"left_out": [1]}, "int8": {"how": "int8"}}
KINDS = [*ARCHITECTURES, "qwen2"]
TOKENS = 26  # past the window of sliding layers


def config_of(settings, **others):
    others = {"acceptance": "native", "spd_k": 4, "draft_length": "fixed", **others}
    return FLyConfig(drafter="self", drafter_settings=settings, **others)


def decoder_of(target, settings, batch_size=4, **others):
    config = config_of(settings, **others)
    return SpeculativeDecoder(target, None, tiny_tokenizer(), config, batch_size=batch_size)


@pytest.fixture
def searches(monkeypatch):
    """The arguments of every search."""
    calls, search = [], self_draft.search
    monkeypatch.setattr(self_draft, "search", lambda *args: (calls.append(args), search(*args))[1])
    return calls


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_native_text_is_the_targets_own(settings, kind, batch_size):
    family = next(family for family in FAMILIES.values() if family.kind == kind)
    target = family.model()
    before = snapshot(target)
    asked = prompts(9)[: 9 if batch_size > 1 else 2]
    results = decoder_of(target, settings, batch_size).generate(asked, max_new_tokens=TOKENS)
    want = [generated(target, ids, TOKENS) for ids in asked]
    assert_same(target, asked, [result.token_ids for result in results], want)
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.matched > 0
    if settings == WAYS["int8"]:
        assert counts.matched > 0.6 * counts.proposed
    assert_unchanged(target, before)


def test_a_deep_model_in_8_bits_drafts():
    """Its logits hang on the shape of the forward, more than a target's may."""
    target = tiny("llama", hidden_size=128, num_hidden_layers=16)
    decoder = decoder_of(target, WAYS["int8"])
    assert decoder.served == {"target": "batched", "draft": "batched", "drafter": "self"}
    results = decoder.generate(prompts(5), max_new_tokens=TOKENS)
    want = [generated(target, ids, TOKENS) for ids in prompts(5)]
    assert_same(target, prompts(5), [result.token_ids for result in results], want)
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.matched > 0.3 * counts.proposed


def test_a_draft_without_idle_layers_pays(tmp_path):
    target = idle((1, 3))
    results = decoder_of(target, {"cache_dir": str(tmp_path)}).generate(
        prompts(5), max_new_tokens=30
    )
    assert [r.token_ids for r in results] == [generated(target, ids, 30) for ids in prompts(5)]
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.emitted / (counts.rounds + counts.plain) > 2.5


def test_sampled_text_does_not_hang_on_who_verifies(tmp_path):
    """The same seeds, whatever the batch."""
    target = idle((1, 3))
    asked = [Request(ids, 20, temperature=1.3, seed=i) for i, ids in enumerate(prompts(6))]
    answers = []
    for batch_size in (1, 5):
        found = dict(decoder_of(target, {"cache_dir": str(tmp_path)}, batch_size).decode(asked))
        answers.append([found[index].token_ids for index in range(6)])
    assert answers[0] == answers[1]


def test_a_second_start_does_not_search(tmp_path, searches):
    target, settings = idle((2,)), {"cache_dir": str(tmp_path)}
    first, second = (decoder_of(target, settings) for _ in range(2))
    assert len(searches) == 1
    for decoder in (first, second):
        assert decoder.served == {"target": "batched", "draft": "batched", "drafter": "self"}
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    with pytest.warns(FLyWarning, match="searched anew"):
        decoder_of(target, settings)
    decoder_of(target, settings)
    assert len(searches) == 2
    decoder_of(target, settings | {"keep": 0.5})
    decoder_of(target, settings | {"calibration_tokens": 99})
    decoder_of(idle((1,)), settings)
    assert len(searches) == 5


def test_without_a_folder_it_is_the_users(tmp_path, searches, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = idle((2,))
    derive_draft(target, tiny_tokenizer(), config_of({}).setup.drafter)
    derive_draft(target, tiny_tokenizer(), config_of({}).setup.drafter)
    assert len(searches) == len(list((tmp_path / "fly" / "self").iterdir())) == 1


def test_named_layers_are_not_searched(searches):
    draft = derive_draft(
        tiny("llama", num_hidden_layers=4), None, config_of({"left_out": [0, 2]}).setup.drafter
    )
    assert len(layer_list(draft)) == 2
    assert not searches


def test_says_what_it_found(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "fly.engine.self_draft.build"):
        derive_draft(
            idle((1, 3)), tiny_tokenizer(), config_of({"cache_dir": str(tmp_path)}).setup.drafter
        )
    assert "without layers [1, 3]" in caplog.text
    assert "times as fast" in caplog.text


def test_says_that_a_draft_is_slower_than_none(tmp_path, caplog):
    """Where every layer is missed; seen whatever logging is set to."""
    target = tiny("llama", num_hidden_layers=4)
    derive_draft(target, tiny_tokenizer(), config_of({"cache_dir": str(tmp_path)}).setup.drafter)
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert record.name == "fly.engine.self_draft.build"
    assert "misses every one of its layers" in record.getMessage()


def test_with_config_derives_when_asked(tmp_path, searches):
    """From a decoder that had no draft, and back; what was made once serves again."""
    target, asked = idle((1, 3)), prompts(4)
    first = SpeculativeDecoder(
        target, None, tiny_tokenizer(), FLyConfig(drafter="ngram", acceptance="native")
    )
    settings = {"cache_dir": str(tmp_path)}
    decoders = [
        first,
        first.with_config(config_of(settings)),
        first.with_config(config_of({"how": "int8"})),
        first.with_config(config_of(settings, spd_k=2)),
        first.with_config(config_of(settings)).with_config(FLyConfig(use_sd=False)),
    ]
    assert len(searches) == 1
    names = [decoder.served["drafter"] for decoder in decoders]
    assert names == ["ngram", "self", "self", "self", "none"]
    drafts = [decoder.drafter.model for decoder in decoders[1:4]]
    assert drafts[0] is drafts[2]
    assert any(isinstance(part, Int8Linear) for part in drafts[1].model.modules())
    for decoder in decoders:
        results = decoder.generate(asked, max_new_tokens=9)
        assert [r.token_ids for r in results] == [generated(target, ids, 9) for ids in asked]
    first.release()
    assert [draft.cache.num_rows for draft in drafts] == [0, 0, 0]
    with pytest.raises(ConfigError, match="needs a draft model"):
        decoders[1].with_config(FLyConfig(drafter="model"))


def test_a_target_behind_the_engines_interface():
    model = tiny("llama")
    decoder = decoder_of(SlotModel(model), {"left_out": [0]})
    (result,) = decoder.generate([prompts(3)[0]], max_new_tokens=9)
    assert result.token_ids == generated(model, prompts(3)[0], 9)
    with pytest.raises(ModelError, match="Tape is no transformers model"):
        decoder_of(Tape("abc"), {"left_out": [0]})


def test_a_target_that_cannot_verify_needs_no_draft(searches):
    target = tiny("mamba", state_size=8)
    with pytest.warns(FLyWarning, match="the target, MambaForCausalLM") as caught:
        decoder = decoder_of(target, {})
    assert caught[0].filename == __file__
    assert decoder.served["drafter"] == "none"
    assert not searches


def test_a_draft_that_cannot_be_served(monkeypatch):
    """The target decodes plainly and says so where the decoder was made."""

    def broken(*args):
        view = copy.copy(tiny("llama"))
        view.forward = lambda *args, **kwargs: 1 / 0
        return view

    monkeypatch.setattr(self_draft, "without_layers", broken)
    with pytest.warns(FLyWarning, match="the draft, LlamaForCausalLM") as caught:
        decoder = decoder_of(tiny("llama"), {"left_out": [0]})
    assert decoder.served == {"target": "batched", "draft": None, "drafter": "none"}
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"left_out": [2]}, "layer 2, but LlamaForCausalLM has 2 layers"),
        ({"left_out": [0, 1]}, "names all 2 layers"),
    ],
)
def test_layers_that_cannot_be_left_out(settings, said):
    with pytest.raises(ModelError, match=said):
        decoder_of(tiny("llama"), settings)


def test_a_single_layer_cannot_be_searched(tmp_path):
    with pytest.raises(ModelError, match=r"single layer[^\n]*\nFix: .*int8"):
        decoder_of(tiny("llama", num_hidden_layers=1), {"cache_dir": str(tmp_path)})


def test_layers_that_cannot_be_found():
    model = tiny.__wrapped__("llama")
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match="no list of 2 decoder layers"):
        decoder_of(model, {})


def test_the_calibration_text(tmp_path):
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    ids = calibration_ids(model, tokenizer, SelfSettings())
    assert ids.shape == (1, CONTEXT)  # the model knows no more positions
    assert len(set(ids[0].tolist())) > 20
    assert calibration_ids(model, tokenizer, SelfSettings(calibration_tokens=9)).shape == (1, 9)
    file = tmp_path / "mine.txt"
    file.write_text("bad cab", encoding="utf-8")
    mine = calibration_ids(model, tokenizer, SelfSettings(calibration_text=str(file)))
    assert mine[0].tolist() == tokenizer("bad cab").input_ids


@pytest.mark.parametrize("content", [None, b"", b"a", b"\xff\xfe\xff"])
def test_a_calibration_text_that_is_none(tmp_path, content):
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"calibration_text is '.*mine.txt', .*\nFix: name a"):
        decoder_of(tiny("llama"), {"calibration_text": str(file)})


@torch.inference_mode()
def test_half_precision(tmp_path):
    target = copy.deepcopy(idle((1, 3))).bfloat16()
    for settings in ({"cache_dir": str(tmp_path)}, {"how": "int8"}):
        results = decoder_of(target, settings).generate(prompts(3), max_new_tokens=12)
        counts = sum((result.statistics for result in results), Statistics())
        assert counts.matched > 0.5 * counts.proposed
