"""Tables of docs/measured.md: equal rules are one row, and the noise stands beside the figures."""

import math
from pathlib import Path

import pytest

from benchmarks.table import Table, between_row, kept_share
from fly.formats.reading import read_comparison

ROOT = Path(__file__).parent.parent.parent
GREEDY = ("rules", "again", "drafters", "copying", "lookups")


def results(name):
    return read_comparison(ROOT / f"benchmarks/results/compare_{name}.json")


@pytest.fixture(scope="module")
def rules():
    return Table(results("rules"), withdrawn=["fly_demo_code"])


def test_equal_rules_are_one_row_and_one_verdict(rules):
    [copies] = [names for names in rules.groups.values() if len(names) > 1]
    assert copies == ["margin:max_gap=0.0879", "cascade:alpha=0.0831", "lenience:lenience=0.9181"]
    [row] = [row for row in rules.rows() if " = " in row[0]]
    assert row[4:6] == ["1.22 to 1.35", "1.09 to 1.21"]
    assert sum(map(len, rules.verdicts.values())) == 34


def test_rules_share_what_they_keep():
    gap = {"acceptance": "margin", "acceptance_settings": {"max_gap": -math.log(0.8)}}
    ratio = {"acceptance": "margin", "acceptance_settings": {"ratio": 0.8}}
    lenience = {"acceptance": "lenience", "acceptance_settings": {"lenience": 0.8}}
    shares = [kept_share(one) for one in (gap, ratio, {"acceptance": "cascade"}, lenience)]
    assert shares == pytest.approx([0.8] * 4)
    windowed = {"acceptance": "margin", "acceptance_settings": {"ratio": 0.8, "window": 2}}
    assert kept_share(windowed) is None
    assert kept_share({"acceptance": "fly"}) is None


def test_sampled_rules_are_their_own():
    assert all(len(names) == 1 for names in Table(results("sampled")).groups.values())


def test_noise_is_what_equal_work_differs_by(rules):
    assert rules.spreads() == pytest.approx([1.17, 1.43], abs=0.005)
    assert Table(results("copying")).spreads() == []


def cells(line):
    return tuple(line.strip("| ").split(" | "))


@pytest.mark.slow
def test_published_rows_are_those_that_are_computed(rules):
    greedy = [results(name) for name in GREEDY]
    tables = [rules, *map(Table, [results("sampled"), results("compiled"), *greedy[1:]])]
    rows = [row for table in tables for row in table.rows()]
    for result in greedy:
        others = [other for other in greedy if other is not result]
        rows.append(between_row([result, *others])[0])
    computed = {cells(" | ".join(row)) for row in rows}
    lines = (ROOT / "docs/measured.md").read_text(encoding="utf-8").splitlines()
    published = {cells(line) for line in lines if line.count(" | ") == 8}
    published -= {one for one in published if one[0] == "method"}
    assert len(published) > 40
    assert published <= computed
