"""Compiled steps: one here; seven families' and the embedded pair's are among the slow tests."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.engine.model import aot
from fly.engine.model.aot import AotBackend, key_of, missing
from fly.engine.model.compiling import make_steps, module_for
from fly.engine.model.graph import StepKind
from fly.engine.model.packed import Packer
from fly.engine.model.slots import SlotModel
from fly.engine.model.step_packages import StepPackages
from fly.errors import FLyWarning
from tests.engine.architectures import FAMILIES
from tests.engine.model.steps import KINDS
from tests.models import VOCAB, demo_model, demo_tokenizer, tiny

ROWS = StepKind(is_single=False, is_long=True)
NEAR = 1e-4  # of logits whose standard deviation is about 1
COMPILED = ["Qwen3", "Gemma 2", "Mixtral", "GPT-2", "GPT-NeoX", "Phi-3", "DeepSeek-V3"]
needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def packed(model):
    """Served with packed layers, where there can be any; the last one stays as it is."""
    served = SlotModel(model)
    served.view = Packer("on").view(model, "target")
    return served


def large(seed=0):
    """A tiny model whose layers are large enough to be packed."""
    return copy.deepcopy(tiny("llama", seed, hidden_size=128, intermediate_size=256))


@torch.inference_mode()
def far(stepped, eager):
    """The largest difference of logits, of ids that are a view."""
    differences = []
    for model in (stepped, eager):
        model.clear()
        model.prefill([[5, 6, 7], [8], [9] * 20], 0)
    ids = torch.randint(0, VOCAB, (3, 9), generator=torch.Generator().manual_seed(1))
    for place, n in ((0, 3), (3, 2), (5, 4)):
        starts = [3 + place, 1 + place, 20 + place]
        got, want = (model.extend(ids[:, place : place + n], starts) for model in (stepped, eager))
        differences.append(float((got - want).abs().max()))
    return max(differences)


@needs_compiler
def test_a_compiled_step(tmp_path, monkeypatch):
    """It is compiled once, shares the weights of whatever model it is loaded for, and a package
    that torch cannot read is compiled anew."""
    model = large()
    stepped, packages = packed(model), StepPackages(tmp_path)
    backend = AotBackend(packages)
    assert not backend.has(module_for(stepped, 8), ROWS)
    assert make_steps(stepped, {ROWS: 8}, backend) is None
    assert stepped.step_cache.find(3, 4) is not None
    assert far(stepped, SlotModel(model)) < NEAR
    # Other numbers in the same weights.
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    assert far(stepped, SlotModel(model)) < NEAR
    # Another model of the same shapes, without compiling.
    calls = []
    monkeypatch.setattr(aot, "compile_step", lambda *given: calls.append(given) or 1 / 0)
    other = large(seed=1)
    again = packed(other)
    assert backend.has(module_for(again, 8), ROWS)
    assert make_steps(again, {ROWS: 8}, backend) is None
    assert far(again, SlotModel(other)) < NEAR
    # A whole file that is no package.
    packages.clear()
    with packages.made(key_of(module_for(stepped, 8), ROWS), lambda file: file.write_bytes(b"x")):
        pass
    with pytest.warns(FLyWarning, match="damaged"):
        assert "ZeroDivisionError" in make_steps(packed(model), {ROWS: 8}, backend)
    assert len(calls) == 1


def test_the_key_tells_what_the_code_depends_on(monkeypatch):
    def key(model, common_vocab=None, kind=ROWS):
        return key_of(module_for(SlotModel(model, common_vocab), 8), kind)

    model = tiny("llama")
    assert key(model) == key(tiny("llama", seed=1))  # not on the weights' numbers
    others = [
        key(model, VOCAB - 1),
        key(model, kind=KINDS[0]),
        key(tiny("llama", rms_norm_eps=1e-3)),
        key(tiny("mistral")),
        key(copy.deepcopy(model).to(torch.bfloat16)),
    ]
    monkeypatch.setattr(torch, "__version__", "9.9")
    others.append(key(model))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    others.append(key(model))
    monkeypatch.undo()
    assert len({key(model), *others}) == 1 + len(others)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert missing() is None or "compiler" in missing()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "compiler" in missing()


def test_old_torch(monkeypatch):
    monkeypatch.delattr(torch._inductor, "aoti_compile_and_package")
    assert "AOTInductor" in missing()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_families(name, tmp_path):
    if not FAMILIES[name].exists:
        pytest.skip("not in this transformers")
    model = FAMILIES[name].model()
    stepped = SlotModel(model)
    why = make_steps(stepped, {ROWS: 8}, AotBackend(StepPackages(tmp_path)))
    if FAMILIES[name].is_traced:
        assert why is None
    else:  # it is said, and the model runs eagerly
        assert "GuardOnDataDependentSymNode" in why
    assert far(stepped, SlotModel(model)) < NEAR


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_embedded_pair_writes_the_same(batch_size, tmp_path, monkeypatch):
    monkeypatch.setenv("FLY_STEPS", str(tmp_path))
    target, draft = demo_model("target"), demo_model("draft")
    asked = [f"Question: Tom owns {n} apples and buys {n + 7}.\nAnswer:" for n in range(3, 51, 6)]

    def texts(decoder):
        return [result.token_ids for result in decoder.generate(asked, max_new_tokens=64)]

    config = FLyConfig(drafter="model", compile="off")
    eager = SpeculativeDecoder(target, draft, demo_tokenizer(), config, batch_size=batch_size)
    for acceptance in ("fly", "native"):
        config = config.changed(acceptance=acceptance, compile="off")
        want = texts(eager.with_config(config))
        compiled = eager.with_config(config.changed(compile="on"))
        assert texts(compiled) == want
        assert compiled.compiled.told == {"target": "compiled", "draft": "compiled"}


@pytest.mark.slow
@needs_compiler
def test_a_kill_while_compiling_leaves_nothing_broken(tmp_path):
    """Neither half an entry nor one that the next process takes."""
    script = (
        "from tests.models import tiny\n"
        "from fly.engine.model.aot import AotBackend\n"
        "from fly.engine.model.compiling import make_steps\n"
        "from fly.engine.model.graph import StepKind\n"
        "from fly.engine.model.slots import SlotModel\n"
        "from fly.engine.model.step_packages import StepPackages\n"
        "print('ready', flush=True)\n"
        "print(make_steps(SlotModel(tiny('llama')), {StepKind(False, True): 8},"
        " AotBackend(StepPackages())), flush=True)\n"
    )
    environment = {**os.environ, "FLY_STEPS": str(tmp_path)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            killed.wait(4)
        killed.kill()
    assert StepPackages(tmp_path).find("any") is None
    assert not [each for each in StepPackages(tmp_path).entries() if each.name[0] != "."]
    both = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [each.communicate(timeout=600)[0] for each in both] == ["ready\nNone\n"] * 2
    assert len(StepPackages(tmp_path).entries()) == 1
    module = module_for(SlotModel(tiny("llama")), 8)
    assert AotBackend(StepPackages(tmp_path)).has(module, ROWS)
