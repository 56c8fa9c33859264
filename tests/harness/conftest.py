"""The tiny pair, made once per process, and a ready model on it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.harness import pairs


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders of a target and a draft, and a configuration file for them."""
    folder = tmp_path_factory.mktemp("pair")
    target = pairs.save_model(folder / "target", seed=0)
    draft = pairs.save_model(folder / "draft", seed=1, layers=1)
    config = pairs.save_config(folder / "toy.json", target, draft_model_path=str(draft))
    return SimpleNamespace(folder=folder, target=target, draft=draft, config=config)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the toy tasks."""
    return pairs.save_tasks(tmp_path_factory.mktemp("toy") / "tasks")


@pytest.fixture(scope="session")
def lm(pair):
    """A model of ours on the pair; its records are of the last test that decoded with it."""
    from fly.harness import FLyLM

    return FLyLM(config_path=str(pair.config), device="cpu", batch_size=4)
