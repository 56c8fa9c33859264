"""A sweep that is killed with SIGKILL at five random points and resumed each time ends as one that
nobody interrupted."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.workbench.test_compare_resume import (
    answers_of,
    comparable,
    run_killed,
    without_clock,
)

KILLS = ["decoding", "writing", "decoding", "round", "decoding"]
NUM_ITEMS = 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SimpleNamespace:
    """The report of all runs, and the folders of the killed one and of the one left alone."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = f"sweep --grid spd_k=8,15 win_len=3,7 --margin 0.1 --limit {NUM_ITEMS}".split()
    report = run_killed(folder, arguments, KILLS, num_lines=20, step=6)
    return SimpleNamespace(report=report, killed=folder / "killed", whole=folder / "whole")


def test_all_kills_hit_and_the_rest_ended_well(runs):
    assert sum(run["killed"] for run in runs.report) >= len(KILLS)
    assert [run["exit_code"] for run in runs.report[-2:]] == [0, 0], runs.report[-2]["log"]


def test_nothing_finished_was_decoded_twice(runs):
    for folder in (runs.killed, runs.killed / "heldout"):
        counts = Counter((one.method, one.doc_id, one.repeat) for one in answers_of(folder))
        assert set(counts.values()) == {1}


def test_answers_and_counters_are_those_of_a_sweep_left_alone(runs):
    for part in (".", "heldout"):
        killed, whole = (
            {(one.method, one.doc_id): comparable(one) for one in answers_of(folder / part)}
            for folder in (runs.killed, runs.whole)
        )
        assert killed == whole


def test_results_are_those_of_a_sweep_left_alone(runs):
    killed, whole = (
        json.loads((folder / "sweep.json").read_text()) for folder in (runs.killed, runs.whole)
    )
    assert whole["recommended"] is not None
    for result in (killed, whole):
        del result["environment"]
        result["heldout"] = without_clock(result["heldout"])
        # "at 1.23x": measured on the held-out items.
        result["conclusion"] = result["conclusion"].split(" On ")[0]
        # Rounds are counted at the end of a rung, so those of killed processes are missing.
        del result["saving"]["rounds_decoded"], result["saving"]["share_saved"]
    assert killed == whole
    chosen = [(folder / "recommended.json").read_text() for folder in (runs.killed, runs.whole)]
    assert chosen[0] == chosen[1]
