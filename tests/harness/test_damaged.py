"""Models that are damaged on the disk are refused in words that name the setting and the folder,
whatever their readers raise.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fly.errors import FLyError, FLyWarning, ModelError
from fly.harness import FLyLM


def change(folder, name, **entries):
    file = folder / name
    if file.exists():
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def unpicklable(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")


def without_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')


def empty_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def no_vocabulary(folder):
    change(folder, "config.json", vocab_size=0)


def end_is_text(folder):
    change(folder, "config.json", eos_token_id="x")
    change(folder, "generation_config.json", eos_token_id="x")


def no_layers(folder):
    change(folder, "config.json", num_hidden_layers="two")


def no_config(folder):
    (folder / "config.json").write_text("[]")


DAMAGE = [
    cut, empty, unpicklable, without_tokenizer, broken_tokenizer, empty_tokenizer, no_vocabulary,
    end_is_text, no_layers, no_config,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("role", ["target", "draft"])
def test_damage_is_told_in_words(pair, tmp_path, role, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(getattr(pair, role), folder)
    damage(folder)
    options = {"pretrained": str(pair.draft), "config_path": str(pair.config), "device": "cpu"}
    options |= {f"{role}_model_path": str(folder)} if role == "target" else {"pretrained": folder}
    with pytest.raises(FLyError) as caught:
        FLyLM(**{key: str(value) for key, value in options.items()})
    assert isinstance(caught.value, ModelError)
    assert f"{role}_model_path" in str(caught.value)
    assert folder.name in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_draft_that_is_not_a_number_is_warned_of_once(pair, tmp_path):
    folder = tmp_path / "draft"
    shutil.copytree(pair.draft, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    lm = FLyLM(pretrained=str(folder), config_path=str(pair.config), device="cpu")
    with pytest.warns(FLyWarning) as caught:
        _ = lm.decoder  # made when it is first asked for
    said = [str(each.message) for each in caught if "not finite" in str(each.message)]
    assert len(said) == 1
    assert "draft" in said[0]
