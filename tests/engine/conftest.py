"""Models that tests share are probed once, not by every decoder."""

import functools

import pytest

from fly.engine.model.probe import probe

probed_once = functools.cache(probe)


@pytest.fixture(autouse=True)
def _probe_once(monkeypatch):
    """What is found of a model holds for the model object: nobody may change it after a decoder."""
    monkeypatch.setattr("fly.engine.model.load.probe", probed_once)
