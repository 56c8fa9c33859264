"""Points with guards, and with every rule that looks at the target's view, answer in a sweep as
decoders of their own."""

import functools

import pytest

from fly.engine.model.probe import probe
from fly.workbench.sweeps.shared import SharedDecoding, drafting_key
from tests.acceptance.rescoring import LOOSE, config_of
from tests.crossing import mostly_slow
from tests.models import blurred, tiny, tiny_tokenizer
from tests.workbench.sweeps.test_shared import answers_of, assert_as_alone, tiny_requests

probed_once = functools.cache(probe)


@pytest.fixture(autouse=True)
def _probe_once(monkeypatch):
    monkeypatch.setattr("fly.engine.model.load.probe", probed_once)


GUARDS = {
    "first": {"strict_first_n": 6},
    "inside": {"only_inside": ["a", "ed"]},
    "both": {"strict_first_n": 3, "only_inside": ["i", "e"]},
    "stop strings traded": {"protect_stop_strings": False},
}


def points(**guard):
    """Rules of several kinds; where special tokens are not protected, the markers' still are, and
    stop strings are not."""
    names = ("margin", "typical", "divergence", "fly")
    found = {name: config_of(name, **LOOSE[name][0] | guard) for name in names}
    found["margin, window"] = config_of("margin", **LOOSE["margin"][2] | guard)
    bare = {"protect_special_tokens": False, "spd_k": 4}
    found["relaxed"] = config_of("relaxed_top_n", **bare | guard)
    found["native"] = config_of("native", **guard)
    return found


@pytest.mark.parametrize("name", mostly_slow(sorted(GUARDS), 1))
def test_guarded_points_answer_as_alone(name):
    target = tiny("llama")
    models = target, blurred(target, 0.06)
    guarded = points(**GUARDS[name])
    shared = SharedDecoding(*models, tiny_tokenizer(), guarded, batch_size=4)
    requests = tiny_requests()
    order = shared.order(guarded)
    found, num_rounds = assert_as_alone(
        shared, models, tiny_tokenizer(), order, requests, batch_size=4
    )
    assert shared.rounds_decoded < num_rounds, "rounds are shared"
    assert any("l" in answer.origins for answers in found.values() for answer in answers)
    unguarded = SharedDecoding(*models, tiny_tokenizer(), points(), batch_size=4)
    changed = [
        [a.origins for a in answers_of(unguarded, point, requests)]
        != [a.origins for a in found[point]]
        for point in ("margin", "relaxed")
    ]
    assert any(changed), "the guard matters"


def test_points_of_other_guards_do_not_share():
    keys = [drafting_key(config_of("margin", **guard)) for guard in ({}, *GUARDS.values())]
    assert len(set(keys)) == len(keys)
