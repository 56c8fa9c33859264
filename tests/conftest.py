"""One thread per worker, no network, and a Hugging Face home of one's own where a test asks."""

import os

# Before anything imports torch, transformers or the hub: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
# What was compiled on this machine before decides nothing; tests that compile name a folder.
os.environ["FLY_STEPS"] = os.devnull

import gc
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """The million objects of imported libraries are not gone through again by each collection,
    which statsmodels asks for in every table of verdicts.
    """
    import hypothesis  # noqa: F401  asks who refers to objects of its own, and must not be frozen out

    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What was frozen ends as usual: Triton complains of objects that nobody ended."""
    gc.unfreeze()


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules, drafters and engines that a test registers are forgotten after it."""
    from fly.acceptance import rules
    from fly.drafting import drafters
    from fly.workbench.engines import engines

    for table in (rules, drafters, engines):
        monkeypatch.setattr(table, "_entries", dict(table._entries))


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face home, for this test and the processes it starts."""
    home = tmp_path / "hf"
    home.mkdir()
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(home / "modules"))
    return home
