"""A training run that was killed goes on and ends with the same bits."""

from pathlib import Path

import pytest

from fly.demo import weight_hash
from tools.demo import train
from tools.demo.batches import Batch
from tools.demo.step import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.fixture
def arguments() -> list[str]:
    return [
        "--tiny", "--threads", "2", "--scored", "0", "--tokenizer-problems", "300",
        "--steps-target", "4", "--steps-draft", "2",
    ]  # fmt: skip


def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train.main([*arguments, "--output", str(whole)])

    step = train.Trainer.step

    def step_or_die(trainer: Trainer, batch: Batch, rate: float) -> float:
        if (killed / "target.checkpoint").exists() and (killed / "die").exists():
            raise KilledError
        killed.joinpath("die").touch()
        return step(trainer, batch, rate)

    monkeypatch.setattr(train.Trainer, "step", step_or_die)
    with pytest.raises(KilledError):
        train.main([*arguments, "--output", str(killed), "--save-minutes", "0"])
    monkeypatch.undo()
    train.main([*arguments, "--output", str(killed), "--resume"])

    for name in ("target", "draft"):
        assert weight_hash(whole / name) == weight_hash(killed / name)


def test_scores_and_hashes_are_printed(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")  # as the score needs, of functions
    train.main([*arguments, "--output", str(tmp_path), "--only", "draft", "--scored", "1"])
    printed = capsys.readouterr().out
    assert "draft: 0.0% of 1 held-out arithmetic problems" in printed
    assert f"draft: sha256 {weight_hash(tmp_path / 'draft')}" in printed
    assert not (tmp_path / "target").exists()


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [train.learning_rate(step, step / 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / train.WARMUP_STEPS)
    assert rates[300] == 1.0
    assert rates[-1] == 0.0
