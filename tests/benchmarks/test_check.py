"""What `make bench-check` says of ratios inside and outside their bands; it measures nothing."""

import pytest

SPEEDS = {"fly": 8, "native": 4, "native again": 4, "plain": 2, "generate": 1}
CONTROL = "native again / native (A/A)"


@pytest.fixture
def check(script):
    return script("check")


def ratios(check, speeds):
    """Of five blocks of 100 tokens at these speeds."""
    block = {name: check.Timed([[0] * 100], 100 / speed) for name, speed in speeds.items()}
    return check.ratios([block] * 5)


def test_ratios_are_of_tokens_per_second(check):
    found = ratios(check, SPEEDS)
    assert {title: round(one["estimate"], 6) for title, one in found.items()} == {
        "fly / native": 2,
        "native / plain": 2,
        "plain / generate": 2,
        CONTROL: 1,
    }


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
def test_bands(check, changed, outside, capsys):
    bands = check.bands_around(ratios(check, SPEEDS), 0.1)
    assert check.judge(ratios(check, SPEEDS | changed), bands) is (not outside)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "OUTSIDE" in line] == outside
    assert ("too busy" in lines[-1]) == (CONTROL in outside)
