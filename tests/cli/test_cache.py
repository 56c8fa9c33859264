"""`fly cache`: where compiled steps lie, and how they go."""

import torch

from fly.cli import main
from fly.engine.model.packing_gains import find_gains
from fly.engine.model.step_packages import StepPackages


def test_shows_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLY_STEPS", str(tmp_path / "steps"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    find_gains({"float32 8x4": [torch.zeros(8, 4)]})
    assert main(["cache"]) == 0
    assert "0 compiled steps" in capsys.readouterr().out
    with StepPackages().made("key", lambda file: file.write_bytes(bytes(3 << 20))):
        pass
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "steps") in shown
    assert "1 compiled steps, 3.0 MiB of at most 1,024" in shown
    assert f"{tmp_path / 'fly' / 'packed'}: 1 measured gains" in shown
    assert main(["cache", "--clear"]) == 0
    assert "removed 1 compiled steps" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.json"))
    assert StepPackages().entries() == []
