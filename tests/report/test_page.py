"""The page: what it says, its drawings, its data, and that hostile text stays text."""

import base64
import hashlib
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fly.cli.command import main
from fly.errors import ConfigError, MissingExtraError, ReportError
from fly.report import charts, write_report
from fly.report.folder import load_folder
from fly.report.harness import pool
from fly.report.page import FILE_NAME, render
from fly.report.plots import Plot
from fly.report.tokens import payload, to_script
from fly.report.view import build
from tests.report import folders

MAKERS = {
    "compare": folders.write_comparison,
    "sweep": folders.write_sweep,
    "run": folders.write_run,
}
HOSTILE = "</script><script>window.__pwned=1</script><img src=x onerror=alert(1)>\u202e\x1b"


@pytest.fixture(params=MAKERS, scope="module")
def folder(request, tmp_path_factory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def page(folder) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def data_of(page: str) -> dict:
    [data] = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_page_is_whole_and_loads_nothing(folder, page):
    assert (folder / FILE_NAME).read_text(encoding="utf-8") == page
    assert page.lstrip().startswith("<!doctype html>")
    assert page.count("<script") == page.count("</script>") == 2
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""\b(?:src|href|action)\s*=\s*["'](?!#|data:,)[^"']*""", markup)
    assert not re.findall(r"\son\w+=|\sstyle=|javascript:", markup)


def test_policy_names_script_and_style(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_same_results_give_the_same_page(folder, page):
    assert render(load_folder(folder)) == page


def test_verdicts_and_figures_are_told(tmp_path):
    view = build(load_folder(folders.write_comparison(tmp_path, num_items=2, num_tokens=20)))
    assert [card.verdict for card in view.cards] == [
        "SAFE",
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        "NOT SAFE",
    ]
    assert "1 SAFE, 1 NOT SAFE, 2 INCONCLUSIVE" in view.lead
    table = view.tables[0]
    names = [column.name for column in table.columns]
    row = next(row for row in table.rows if row.cells[0].text == "fly")
    told = {name: (cell.text, cell.below) for name, cell in zip(names, row.cells, strict=True)}
    below = {row.cells[0].text: row.cells[0].below for row in table.rows}
    assert below["fly"] == "batch 16, lossy"
    assert "batch 16, lossless" in below.values()
    assert told["Recovery"] == ("99.1\u00a0%", "97.8 to 100.4")
    assert told["Gained / lost"] == ("+12 / \N{MINUS SIGN}19", "")
    assert told["McNemar p"] == ("0.281", "")
    assert told["vs target"] == ("1.86\N{MULTIPLICATION SIGN}", "1.79 to 1.93")
    assert told["Loose"] == ("2.10\u00a0%", "")
    assert told["Equal texts"] == ("812", "of 1,000")
    assert told["Peak memory"] == ("3.3 GiB", "")
    control = next(row for row in table.rows if row.kind == "control")
    assert control.cells[0].below == "noise floor, batch 8"
    assert any("smaller K" in advice for _, advice in view.costs[0].notes)
    told = [name for name, text in view.costs[0].notes if text == folders.shares().in_words]
    assert told[:2] == ["target", "native"]


def test_sweep_has_its_points_and_recommendation(tmp_path):
    view = build(load_folder(folders.write_sweep(tmp_path)))
    assert view.points is not None
    assert len(view.points.rows) == 9
    (best,) = [row for row in view.points.rows if row.kind == "recommended"]
    assert best.cells[0].text == "spd_k=15 win_len=8"
    assert best.cells[0].below == "recommended, on the frontier, lossy"
    assert all("lossy" in row.cells[0].below for row in view.points.rows)
    assert view.plots[0].name == "frontier"
    assert "Recommended: spd_k=15 win_len=8" in view.plots[0].label
    assert view.lead.startswith("spd_k=15 win_len=8 is the fastest")


def test_plots_have_numbers_and_no_colours_or_styles_of_their_own(folder):
    plots = build(load_folder(folder)).plots
    assert len({plot.name for plot in plots}) == len(plots) >= 3
    for plot in plots:
        assert plot.label
        assert plot.rows
        assert all(len(row) == len(plot.columns) for row in plot.rows)
        root = ElementTree.fromstring(plot.svg)
        for element in root.iter():
            assert "style" not in element.attrib
            for key in ("fill", "stroke"):
                assert element.get(key, "none") == "none", (plot.name, element.attrib)
            assert element.get("id", plot.name).startswith(plot.name)


def drawn_texts(plot: Plot) -> list[str]:
    return [element.text for element in ElementTree.fromstring(plot.svg).iter() if element.text]


def test_interval_chart_draws_methods_and_margin():
    entries = [
        charts.ChartEntry("task", "fly", folders.interval(0.99, 0.01)),
        charts.ChartEntry("task", "$\\frac{x}{", folders.interval(0.98, 0.01), True),
    ]
    line = charts.Reference(0.97, "margin 0.97", is_limit=True)
    plot = charts.intervals("recovery", "Recovery", "share", entries, [line])
    texts = drawn_texts(plot)
    assert {"fly", "$\\frac{x}{", "margin 0.97"} <= set(texts)
    assert plot.rows[0][2:4] == ["0.990", "0.980 to 1.000"]


def test_charts_without_data_are_left_out():
    unknown = replace(folders.interval(1, 0), estimate=None)
    entries = [charts.ChartEntry("t", "m", unknown)]
    assert charts.intervals("a", "A", "x", entries, []) is None
    assert charts.by_position("b", "t", []) is None
    assert charts.kept_per_round("c", "t", [charts.Series("m", [0, 0])]) is None
    assert charts.phases("d", [("t", "m", {"draft": 0.0})]) is None


def test_pooled_rounds():
    made = (["a"] * 6, "mmcmlb", [(4, 2), (2, 2)], None)
    one = folders.answer("fly", "t", 0, "p", made, {})
    (found,) = pool([one])
    assert found.acceptance.mean_acceptance_length == 3
    assert found.acceptance.acceptance_rate == pytest.approx(4 / 6)
    assert found.acceptance.by_position == [1, 1, 0, 0]
    assert found.acceptance.kept_per_round == [0, 0, 2, 0, 0]
    assert found.acceptance.loose_share == pytest.approx(1 / 6)
    assert found.seconds_by_phase["target"] == 0.5


def test_payload_gives_every_token_back(tmp_path):
    results = load_folder(folders.write_comparison(tmp_path, num_items=3, num_tokens=40))
    data = json.loads(
        to_script(payload(results.answers, results.items, results.windows, frozenset()))
    )
    assert data["methods"] == ["fly", "native", "target"]
    assert (data["target"], data["windows"]) == (2, [folders.WINDOW, None, None])
    assert len(data["items"]) == 6
    item = data["items"][0]
    answer = next(one for one in results.answers if one.method == "fly")
    assert [data["pieces"][number] for number in item["a"]["0"]["i"]] == answer.tokens
    assert data["shared"][item["t"]] + item["p"] == answer.prompt
    assert item["a"]["0"]["o"] == answer.origins
    start = {entry[0]: entry for entry in item["a"]["0"]["m"]}
    for at, origin in enumerate(answer.origins):
        assert (at in start) == (origin in "lc")
        if origin == "l":
            assert data["pieces"][start[at][1]] == answer.tokens[at]


def test_place_of_equal_documents():
    made = (["a"], "m", [(1, 1)], None)
    answers = [
        folders.answer("fly", "t", 0, "p", made, {}, doc_hash="same"),
        folders.answer("fly", "t", 1, "p", made, {}, doc_hash="same"),
        folders.answer("fly", "t", 1, "p", made, {}, doc_hash="same", repeat=1),
        folders.answer("fly", "t", None, "p", made, {}, doc_hash=None),
        folders.answer("fly", "t", None, "q", made, {}, doc_hash=None, idx=1),
    ]
    data = payload(answers, [], {}, frozenset())
    assert [item["k"] for item in data["items"]] == ["t/0", "t/1", "t/1/0/1", "t/n3", "t/n4/1/0"]


@pytest.mark.parametrize("text", [HOSTILE, "\u2028\u2029", "<!--<script>", "\ud800", "&lt;"])
def test_script_data_holds_no_markup(text):
    written = to_script({"x": text})
    assert not set(written) & set("<>&\u2028\u2029\ud800")
    assert json.loads(written)["x"] == text


def test_hostile_names_stay_text(tmp_path):
    made = ([HOSTILE], "l", [(1, 1)], None)
    extra = [folders.answer(HOSTILE, HOSTILE, 0, HOSTILE, made, {})]
    folder = folders.write_comparison(
        tmp_path, tasks=[HOSTILE], num_items=1, num_tokens=20, extra=extra
    )
    page = render(load_folder(folder))
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "\u202e" not in page.partition('id="data"')[0]
    assert "\x1b" not in page
    assert HOSTILE in data_of(page)["tasks"]


@pytest.mark.slow
def test_large_report_stays_small(tmp_path):
    folder = folders.write_comparison(
        tmp_path, tasks=["gsm8k"], num_items=500, num_tokens=500, methods=("target", "fly")
    )
    assert write_report(folder).stat().st_size < 30 * 2**20


def test_command_prints_the_path(tmp_path, capsys):
    folder = folders.write_run(tmp_path / "out", num_items=2)
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path, monkeypatch):
    """Said before anything is drawn."""
    folder = folders.write_run(tmp_path / "out", num_items=2)
    monkeypatch.setattr("fly.report.page.render", None)
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(folder, tmp_path / "nowhere" / "page.html")
    for path in (tmp_path / "out", next(folder.rglob("*.json*")) / "page.html", Path("/proc/x")):
        with pytest.raises((ConfigError, ReportError), match=r"cannot be written|is a folder"):
            write_report(folder, path)


def test_missing_extra_carries_the_install_line(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"needs jinja2\nFix: pip install .*\[report\]"):
        write_report(tmp_path)


def rewrite(path: Path, **changes) -> dict:
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(record))
    return record


def test_a_margin_in_points_and_other_metrics(tmp_path):
    folder = folders.write_comparison(tmp_path, tasks=["gsm8k"], num_items=3, num_tokens=20)
    path = folder / "compare.json"
    tasks = json.loads(path.read_text())["tasks"]
    for method in tasks[0]["methods"]:
        other = method["score"] | {"filter": "flexible-extract", "num_items": 990}
        method["other_scores"] = [other | {"paired": method["paired"]}]
        if method["name"] == "fly":
            same = {"estimate": 1, "low": None, "high": None, "method": "all 3 texts identical"}
            method["paired"]["recovery"] = same
    rewrite(path, margin=None, margin_points=3, tasks=tasks)
    page = render(load_folder(folder))
    assert "Margin 3 points of the score, 95\u00a0% one-sided" in page
    assert "may be lost: 3 points (0.01 of the score each) on gsm8k" in page
    assert "gsm8k: other metrics" in page
    assert "exact_match (strict-match) decides" in page
    assert page.count("exact_match (flexible-extract)") == 6
    assert "all 3 texts identical" in page
    [plot] = [plot for plot in build(load_folder(folder)).plots if plot.name == "difference"]
    assert "margin 3 points at -3" in plot.label
    assert [row[2] for row in plot.rows if row[1] == "fly"] == ["-0.700"]


def test_less_is_better_in_points(tmp_path):
    """What is plotted is what was gained."""
    folder = folders.write_comparison(tmp_path, tasks=["wmt"], num_items=3, num_tokens=20)
    path = folder / "compare.json"
    tasks = json.loads(path.read_text())["tasks"]
    tasks[0]["point"] = 1.0
    for method in tasks[0]["methods"]:
        method["score"]["higher_is_better"] = False
        if method["paired"]:
            method["paired"] |= {"gained": None, "lost": None}
    rewrite(path, margin=None, margin_points=2, tasks=tasks)
    [plot] = [plot for plot in build(load_folder(folder)).plots if plot.name == "difference"]
    estimate, ends = plot.rows[0][2:4]
    assert (estimate, ends) == ("0.007", "-0.005 to 0.019")
    assert "lower is better" in render(load_folder(folder))


def test_a_sweep_in_points(tmp_path):
    folder = folders.write_sweep(tmp_path)
    path = folder / "sweep.json"
    points = json.loads(path.read_text())["points"]
    for point in points:
        point |= {"recovery_lower": None, "points_lower": -2.5}
    rewrite(path, margin=None, margin_points=3, points=points)
    page = render(load_folder(folder))
    assert "\u22122.5 points" in page
    [plot] = [plot for plot in build(load_folder(folder)).plots if plot.name == "frontier"]
    assert plot.title == "Speedup against difference in points"
    assert plot.columns[-1] == "Difference in points"
