"""Whatever stands in a file, its reader answers with an object or with an error in words: never
another exception, never a page of text.
"""

import contextlib
import json
import string
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.errors import FLyError
from fly.evaluation.grid import grid_points, parse_grid, read_grid

LONGEST = 500  # characters of a message
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NASTY = [
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
    return json.dumps(value)


@contextlib.contextmanager
def words(*named):
    """Nothing but a FLyError comes out, short, and naming what is to be mended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except FLyError as error:
            assert len(str(error)) < LONGEST, str(error)
            for name in named:
                assert str(name) in str(error)


@FUZZ
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_configuration(tmp_path, found):
    file = tmp_path / "pair.json"
    file.write_text(text_of(found))
    with words():
        FLyConfig.load(file)


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
