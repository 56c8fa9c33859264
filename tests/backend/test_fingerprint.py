"""The fingerprint follows what can change a text, contents of the models included, and nothing
else."""

import json
import shutil

import pytest
import torch

from fly.backend import FLyLM, fingerprint
from fly.backend.fingerprint import digest, text_settings
from fly.config import FLyConfig


@pytest.fixture
def copies(pair, tmp_path):
    """Folders of the pair that a test may change, and the fingerprint as they stand."""
    for name in ("target", "draft"):
        shutil.copytree(pair.folder / name, tmp_path / name)
    config = FLyConfig(
        target_model_path=str(tmp_path / "target"), draft_model_path=str(tmp_path / "draft")
    )
    model = torch.nn.Linear(1, 1)
    model.dtype, model.config = torch.float32, None

    def current(**options):
        return digest(text_settings(config, options, model, model))

    return tmp_path, current


def append(file):
    file.write_bytes(file.read_bytes() + b" ")


def test_options(copies):
    _, current = copies
    first = current()
    assert current(batch_size=7, device="cuda:1", max_batch_size=3) == first
    assert len({first, current(dtype="bfloat16"), current(max_length=99), current(peft="a/b")}) == 4


@pytest.mark.parametrize("folder", ["target", "draft"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
def test_contents_of_the_models(copies, folder, name):
    path, current = copies
    first = current()
    append(path / folder / name)
    assert current() != first


def test_files_that_are_no_part_of_a_model(copies):
    path, current = copies
    first = current()
    (path / "target" / "README.md").write_text("words")
    (path / "target" / "cache_0_rank0.jsonl").write_text("words")
    (path / "target" / ".gitattributes").write_text("words")
    (path / "target" / "checkpoint-1").mkdir()
    assert current() == first
    (path / "target" / "model.py").write_text("code")
    assert current() != first


def test_subfolder_and_adapter(copies):
    path, current = copies
    (path / "target" / "sub").mkdir()
    (path / "target" / "sub" / "config.json").write_text("{}")
    (path / "adapter").mkdir()
    (path / "adapter" / "adapter_config.json").write_text("{}")
    for options, file in (
        ({"subfolder": "sub"}, path / "target" / "sub" / "config.json"),
        ({"peft": str(path / "adapter")}, path / "adapter" / "adapter_config.json"),
    ):
        first = current(**options)
        append(file)
        assert current(**options) != first


def test_large_files_go_by_size_and_time(copies, monkeypatch):
    path, current = copies
    monkeypatch.setattr(fingerprint, "_HASHED_BYTES", 1000)
    first = current()
    assert current() == first
    shutil.copy(path / "draft" / "model.safetensors", path / "target" / "model.safetensors")
    assert current() != first


def test_commit_of_a_model_on_the_hub():
    config = FLyConfig(target_model_path="some/model", use_sd=False)
    found = set()
    for commit in ("1" * 40, "2" * 40):
        model = torch.nn.Linear(1, 1)
        model.dtype = torch.float32
        model.config = type("Config", (), {"_commit_hash": commit})
        found.add(digest(text_settings(config, {}, model, None)))
    assert len(found) == 2


def test_commit_of_an_adapter_on_the_hub(copies, monkeypatch):
    _, current = copies
    found = set()
    for commit in ("1" * 40, "2" * 40, None):
        file = f"/hub/models--a--b/snapshots/{commit}/x" if commit else None
        monkeypatch.setattr(fingerprint, "try_to_load_from_cache", lambda *_, file=file: file)
        found.add(current(peft="a/b"))
    assert len(found) == 3


def test_versions(copies, monkeypatch):
    _, current = copies
    first = current()
    monkeypatch.setattr(fingerprint.fly, "__version__", "0.0.0")
    assert current() != first


def test_of_a_loaded_pair(lm, pair):
    assert lm.fingerprint() == lm.fingerprint()
    settings = lm._text_settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["target"]["dtype"] == "torch.float32"
    other = FLyLM(config_path=str(pair.config), device="cpu", win_len=4)
    assert other.fingerprint() != lm.fingerprint()
