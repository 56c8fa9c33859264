"""The fingerprint follows what can change a text, contents of the models included, and nothing
else."""

import importlib.metadata
import json
import shutil

import pytest
import torch

from fly.config import FLyConfig
from fly.harness import FLyLM, fingerprint
from fly.harness.fingerprint import digest, text_settings


@pytest.fixture
def copies(pair, tmp_path):
    """Folders of the pair that a test may change, and the fingerprint as they stand."""
    for name in ("target", "draft"):
        shutil.copytree(pair.folder / name, tmp_path / name)
    config = FLyConfig(
        target_model_path=str(tmp_path / "target"), draft_model_path=str(tmp_path / "draft")
    )
    model = torch.nn.Linear(1, 1)
    model.dtype = torch.float32

    def current(config=config, **options):
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
    adapter = path / "adapter" / "adapter_config.json"
    for options, file in (
        ({"subfolder": "sub"}, path / "target" / "sub" / "config.json"),
        ({"peft": str(path / "adapter")}, adapter),
        ({"delta": str(path / "adapter")}, adapter),
        ({"tokenizer": path / "adapter"}, adapter),
    ):
        first = current(**options)
        append(file)
        assert current(**options) != first


def test_versions(copies, monkeypatch):
    _, current = copies
    first = current()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint.fly, "__version__", "0.0.0")
        assert current() != first
    known = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.0" if name == "tokenizers" else known(name)
    )
    assert current() != first


def test_versions_of_what_is_installed(monkeypatch):
    def version(name):
        if name in ("peft", "bitsandbytes"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert {"accelerate", "tokenizers"} <= fingerprint.versions().keys()
    assert not {"peft", "bitsandbytes"} & fingerprint.versions().keys()


def test_sources(copies, monkeypatch, tmp_path):
    """An editable clone is another program after `git pull`, with the same version."""
    _, current = copies
    (tmp_path / "clone" / "part").mkdir(parents=True)
    monkeypatch.setattr(fingerprint.fly, "__file__", str(tmp_path / "clone" / "__init__.py"))
    found = [current(), current()]
    for change in ("a = 1", "a = 2"):
        (tmp_path / "clone" / "part" / "file.py").write_text(change)
        found.append(current())
    (tmp_path / "clone" / "part" / "file.py").rename(tmp_path / "clone" / "file.py")
    found.append(current())
    (tmp_path / "clone" / "file.pyc").write_text("no source")
    found.append(current())
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert len(set(found)) == 4


def test_counters_that_are_asked_for(copies):
    """They are part of a record, and count by settings that need not change the text."""
    _, current = copies
    paths = {
        "target_model_path": str(copies[0] / "target"),
        "draft_model_path": str(copies[0] / "draft"),
        "abla_no_window": True,
    }

    def found(**settings):
        return current(config=FLyConfig(**paths, **settings))

    assert found(enable_fly=False) == found() == found(win_len=4)
    counting = [{}, {"enable_fly": False}, {"win_len": 4}]
    assert len({found(), *(found(enable_statistics=True, **more) for more in counting)}) == 4


def test_an_object_is_equal_to_nothing(copies, caplog):
    _, current = copies
    assert current(tokenizer=object()) != current(tokenizer=object())
    assert "the tokenizer, an object, cannot be told" in caplog.text


def test_of_a_loaded_pair(lm, pair):
    assert lm.fingerprint() == lm.fingerprint()
    settings = lm.text_settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["target"]["dtype"] == "torch.float32"
    other = FLyLM(config_path=str(pair.config), device="cpu", win_len=4)
    assert other.fingerprint() != lm.fingerprint()
