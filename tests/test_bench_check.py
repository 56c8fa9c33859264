"""What `make bench-check` says of ratios inside and outside their bands; it measures nothing."""

import pytest

from benchmarks.check import CONTROL, RATIOS, bands_around, judge, ratios

SPEEDS = {"fly": 8, "native": 4, "native again": 4, "plain": 2, "generate": 1}


def blocks(speeds):
    """Five blocks of 100 tokens at these speeds."""
    return [{name: (100, 100 / speed) for name, speed in speeds.items()} for _ in range(5)]


def test_ratios_are_of_tokens_per_second():
    found = ratios(blocks(SPEEDS))
    assert list(found) == list(RATIOS)
    assert [estimate for estimate, *_ in found.values()] == pytest.approx([2, 2, 2, 1])


@pytest.mark.parametrize(
    ("changed", "outside"),
    [
        ({}, []),
        ({"fly": 8.5}, []),
        ({"fly": 7}, ["fly / native"]),
        ({"fly": 9}, ["fly / native"]),  # faster is a change, too
        ({"generate": 1.2}, ["plain / generate"]),
        ({"native again": 5}, [CONTROL]),
    ],
)
def test_bands(changed, outside, capsys):
    bands = bands_around(ratios(blocks(SPEEDS)), 0.1)
    assert judge(ratios(blocks(SPEEDS | changed)), bands) is (not outside)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "OUTSIDE" in line] == outside
    assert ("too busy" in lines[-1]) == (CONTROL in outside)
