"""The summary is whole on a narrow terminal, and holds where nothing was decoded."""

import pytest

from fly.cli.run import print_summary
from fly.engine import Statistics
from fly.harness.records import RequestRecord, summarise

RUN = {"batch_size": 32, "processes": 1, "target": {"path": "T"}, "draft": {"path": "D"}}


@pytest.mark.parametrize("columns", ["80", "200"])
def test_numbers_are_not_cut(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    statistics = Statistics(
        requests=1,
        rounds=111_222,
        proposed=1_000_000,
        matched=900_000,
        loose=12_345,
        emitted=1_023_567,
        seconds_target=321.0,
    )
    print_summary(
        RUN | summarise([RequestRecord("fly_demo_math", 0, None, 0, 0, "eos", 9, statistics)])
    )
    out = capsys.readouterr().out
    for number in ("1,023,567", "111,222", "3,189", "8.20", "91.2%", "1.21%"):
        assert out.count(number) == 2, number
    assert "…" not in out


def test_nothing_decoded(capsys):
    print_summary(RUN | {"draft": None} | summarise([]))
    out = capsys.readouterr().out
    assert "no draft model" in out
    assert "overall" in out


def test_answers_that_ended_inside_their_thinking_are_counted(capsys):
    for count in (0, 1):
        statistics = Statistics(requests=1, unfinished_thinking=count)
        records = [RequestRecord("toy", n, None, 0, 0, "length", 9, statistics) for n in range(3)]
        print_summary(RUN | summarise(records))
        told = "3 of 3 answers ended inside their thinking"
        assert (told in capsys.readouterr().out) is bool(count)


def test_speed_is_said_to_be_of_one_process(capsys):
    for number, told in ((1, False), (3, True)):
        print_summary(RUN | {"processes": number} | summarise([]))
        assert ("of each of the 3 processes" in capsys.readouterr().out) is told


def test_remarks_are_printed_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    remarks = ["sums [bold]: speculation was slower than plain decoding here"]
    print_summary(RUN | {"remarks": remarks} | summarise([]))
    assert f"{remarks[0]}." in capsys.readouterr().out
