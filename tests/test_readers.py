"""Whatever stands in a file, its reader answers with an object or with an error in words: never
another exception, never a page of text.
"""

import contextlib
import copy
import json
import random
import string
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.drafting.adaptive.arms import Knowledge
from fly.drafting.adaptive.policies import POLICIES
from fly.engine import Statistics
from fly.errors import FLyError, FLyWarning
from fly.harness.journal import LineFile, read_journal
from fly.harness.records import summarise
from fly.report.folder import load_folder
from fly.report.view import build
from fly.workbench.sweeps.grid import grid_points, parse_grid, read_grid
from tests.report import folders

LONGEST = 500  # characters of a message
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NASTY: list[object] = [
    *(10**5000, -(10**400), 1e308, float("inf"), float("nan"), True, None, "", "x" * 6000),
    *("a\0b", "\ud800", "~nosuchuser/x", "./nowhere", "../" * 1500, "\x1b[31m[/red]", [], {}),
    *([[]] * 3, {"": {}}, {"k": "v" * 6000}, 10**4000),
]
VALUES = st.one_of(
    st.sampled_from(NASTY),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.lists(st.integers() | st.text(max_size=5), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)
KEYS = st.sampled_from(sorted(FLyConfig.model_fields)) | st.text(max_size=12) | st.just("\ud800")


def text_of(value: object) -> str:
    """JSON of any value, with numbers that Python itself would not write."""
    if isinstance(value, int) and abs(value) >= 10**4000:
        return "9" * 5000
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {text_of(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    return json.dumps(value)


@contextlib.contextmanager
def words(*named):
    """Nothing but a FLyError comes out, short, and naming what is to be mended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = None
        try:
            yield
        except FLyError as error:
            told = str(error)
    if told is not None:
        assert len(told) < LONGEST, told
        assert all(str(name) in told for name in named), told


@FUZZ
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_configuration(tmp_path, found):
    file = tmp_path / "pair.json"
    file.write_text(text_of(found))
    with words():
        FLyConfig.load(file)


@pytest.mark.slow
@FUZZ
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_any_overrides(found):
    with words():
        FLyConfig.load(None, found)
    with words():
        FLyConfig.from_mapping(found)


TORN = {
    "nothing": b"",
    "half": b'{"spd_k": 1',
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a long number": b'{"spd_k": ' + b"9" * 5000 + b"}",
    "no text": b"\xff\xfe\x00",
    "a long key twice": b'{"%s": 1, "%s": 1}' % (b"k" * 6000, b"k" * 6000),
    "a long text": b'"' + b"x" * 6000 + b'"',
    "a surrogate": rb'{"\ud800": 1}',
}


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_configuration(tmp_path, content):
    file = tmp_path / "pair.json"
    file.write_bytes(content)
    with words(file):
        FLyConfig.load(file)
        pytest.fail("was read")


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_grid(tmp_path, content, suffix):
    file = tmp_path / f"grid{suffix}"
    file.write_bytes(content)
    with words():
        read_grid(file)
        pytest.fail("was read")


@FUZZ
@given(st.dictionaries(KEYS, st.lists(VALUES, max_size=3) | VALUES, max_size=3))
def test_any_grid(tmp_path, found):
    file = tmp_path / "grid.json"
    file.write_text(text_of(found))
    with words():
        grid_points(read_grid(file))


@FUZZ
@given(st.lists(st.text(alphabet=string.printable, max_size=20) | st.sampled_from(
    ["spd_k=" + "9" * 5000, "k" * 6000 + "=1", "spd_k=" + "1," * 3000, "target_model_path=\0"]
), max_size=3))  # fmt: skip
def test_any_grid_flag(items):
    with words():
        grid_points(parse_grid(items))


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b", "x" * 5000, "../" * 1500])
def test_any_path(path):
    with words():
        FLyConfig.load(path)
        pytest.fail("was read")
    with words():
        FLyConfig.load(None, {"target_model_path": path})
    with words():
        read_grid(path)
        pytest.fail("was read")


def places_of(value: object, path: tuple = ()) -> list[tuple]:
    """Every place inside a JSON value."""
    if not isinstance(value, dict | list):
        return [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(found for key, inner in entries for found in places_of(inner, (*path, key)))]


def with_other(value, path, other):
    """The value with another one at a place."""
    if not path:
        return other
    changed = copy.copy(value)
    changed[path[0]] = with_other(value[path[0]], path[1:], other)
    return changed


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folders of results of every command, and their files."""
    folder = tmp_path_factory.mktemp("results")
    compared = folders.write_comparison(folder / "compare", num_items=1, num_tokens=8)
    swept = folders.write_sweep(folder / "sweep")
    ran = folders.write_run(folder / "run", num_items=1)
    files = [*compared.iterdir(), *swept.rglob("*.json"), *ran.rglob("*.json*")]
    return sorted(file for file in files if file.is_file())


@pytest.mark.slow
@settings(FUZZ, max_examples=FUZZ.max_examples // 5)  # reading a folder takes a while
@given(st.data())
def test_any_result(written, data):
    """One value anywhere in a file is another one, or a byte is."""
    file = data.draw(st.sampled_from(written))
    folder = next(parent for parent in file.parents if parent.name in ("compare", "sweep", "run"))
    before = file.read_bytes()
    try:
        if data.draw(st.booleans()):
            lines = (
                [json.loads(line) for line in before.splitlines()]
                if "jsonl" in file.suffix
                else [json.loads(before)]
            )
            number = data.draw(st.integers(0, len(lines) - 1))
            path = data.draw(st.sampled_from(places_of(lines[number])))
            lines[number] = with_other(lines[number], path, data.draw(VALUES))
            file.write_text("".join(f"{text_of(line)}\n" for line in lines))
        else:
            place = data.draw(st.integers(0, len(before) - 1))
            file.write_bytes(
                before[:place] + data.draw(st.binary(max_size=3)) + before[place + 1 :]
            )
        with words():
            build(load_folder(folder))
    finally:
        file.write_bytes(before)


JOURNAL = [
    {"fly_journal": "abc", "settings": {"k": 1}},
    {"key": "k0", "answer": "some text", "record": {
        "task": "toy", "doc_id": 0, "doc_hash": None, "idx": 0, "copy": 0, "finish_reason": "eos",
        "num_tokens": 3, "statistics": Statistics(requests=1, emitted=3).to_dict(),
        "resumed": False,
    }},
]  # fmt: skip


def test_a_journal_without_checksums_is_read(tmp_path):
    file = tmp_path / "journal.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in JOURNAL))
    entries, *_ = read_journal(file, "abc")
    assert entries["k0"].answer == "some text"
    assert entries["k0"].record.statistics == Statistics(requests=1, emitted=3)


@FUZZ
@given(st.data())
def test_any_journal(tmp_path, data):
    """Of 0.1, without checksums: a value of a wrong type is found when it is opened."""
    number = data.draw(st.integers(0, 1))
    path = data.draw(st.sampled_from(places_of(JOURNAL[number])))
    other = data.draw(VALUES)
    lines = list(JOURNAL)
    lines[number] = with_other(lines[number], path, other)
    file = tmp_path / "journal.jsonl"
    file.write_text("".join(f"{text_of(line)}\n" for line in lines))
    with words(file.name):
        entries, *_ = read_journal(file, "abc")
        for entry in entries.values():
            entry.record.statistics.metrics()
            summarise([entry.record])


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_journal(tmp_path, content):
    file = tmp_path / "journal.jsonl"
    file.write_bytes(content + b"\n")
    with words(file.name):
        read_journal(file, "abc")
        pytest.fail("was read")


def test_a_flipped_bit_of_a_journal_changes_no_answer(tmp_path):
    file = tmp_path / "journal.jsonl"
    lines = LineFile(file)
    lines.open()
    for line in JOURNAL:
        lines.append(line)
    lines.close()
    before = file.read_bytes()
    [own] = read_journal(file, "abc")[0].items()
    for place in range(len(before)):
        for bit in range(8):
            changed = bytearray(before)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            with words(file.name):
                found = read_journal(file, "abc")[0]
                # A flipped end of a line leaves half a line, which is decoded again.
                assert list(found.items()) in ([own], [])


@FUZZ
@given(st.data())
def test_any_state_of_a_bandit(tmp_path, data):
    """What cannot be used is learned anew, and said so; what can be used can be chosen by."""
    names = ["none", "suffix:k=4"]
    file = tmp_path / "state.json"
    if file.exists():
        file.unlink()
    known = Knowledge(names, file)
    for arm in known.of("toy"):
        arm.note(4, 0.5)
    known.save()
    state = json.loads(file.read_text())
    path = data.draw(st.sampled_from(places_of(state)))
    file.write_text(text_of(with_other(state, path, data.draw(VALUES))))
    with words(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Knowledge(names, file)
    assert all(len(str(one.message)) < LONGEST for one in caught)
    for sums in [found.of("toy"), *map(found.of, list(found.report()))]:
        for policy in POLICIES.values():
            assert policy(sums, 0.5, random.Random(0)) in (0, 1)
        sums[0].note(3, 0.5)
    found.report()


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_state_of_a_bandit(tmp_path, content):
    file = tmp_path / "state.json"
    file.write_bytes(content)
    with pytest.warns(FLyWarning, match="cannot be used") as caught:
        Knowledge(["none"], file)
    assert len(str(caught[0].message)) < LONGEST
