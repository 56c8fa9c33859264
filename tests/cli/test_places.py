"""Places to write to are tried before anything is loaded, whichever option names them."""

import json

import pytest

from fly.harness import FLyLM

GIVEN = ["--model_args", "config_path=demo", "--tasks", "fly_demo_math"]
RUN, COMPARE = ["run", "--model", "hf", *GIVEN], ["compare", *GIVEN]
SWEEP = ["sweep", "--grid", "win_len=4,6", *GIVEN]


@pytest.fixture(autouse=True)
def _places(monkeypatch, tmp_path):
    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(FLyLM, "__init__", load)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "cache_rank0.db").mkdir()


BAD = {  # the command, its option and what it is given
    "run into a file": (RUN, "--output_path", "file"),
    "run below a file": (RUN, "--output_path", "file/out"),
    "run into a file's neighbour": (RUN, "--output_path", "file/results.json"),
    "run into a device": (RUN, "--output_path", "/dev/full"),
    "run where no folders are made": (RUN, "--output_path", "/proc/self/out"),
    "compare into a file": (COMPARE, "--output_path", "file"),
    "compare below a file": (COMPARE, "--output_path", "file/out"),
    "compare where no folders are made": (COMPARE, "--output_path", "/proc/self/out"),
    "sweep below a file": (SWEEP, "--output_path", "file/out"),
    "cache below a file": (RUN, "--use_cache", "file/cache"),
    "cache where no folders are made": (RUN, "--use_cache", "/proc/self/cache"),
    "cache whose database is a folder": (RUN, "--use_cache", "cache"),
}


@pytest.mark.parametrize(("command", "option", "value"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("more", [[], ["--trace", "--log_samples"]], ids=["", "traced"])
def test_tried_before_anything_is_loaded(fly, capsys, command, option, value, more):
    given = more if command is RUN and option == "--output_path" else []
    assert fly(*command, option, value, *given) == 2
    err = capsys.readouterr().err
    assert f"{option} " in err
    assert value.partition("/results")[0] in err
    assert "Traceback" not in err


def test_own_settings_that_are_written(fly, capsys, tmp_path):
    """The bandit's state, wherever it is said."""
    (tmp_path / "bandit.json").write_text(
        json.dumps({"drafter": "bandit", "drafter_settings": {"state": "file/state.json"}})
    )
    given = "target_model_path=a/b,draft_model_path=c/d,config_path=bandit.json"
    assert fly("run", "--model", "hf", "--model_args", given, "--tasks", "fly_demo_math") == 2
    assert "drafter_settings: state 'file/state.json'" in capsys.readouterr().err
    assert fly(*COMPARE, "--methods", "target", "bandit:state=file/state.json") == 2
    assert "drafter_settings: state 'file/state.json'" in capsys.readouterr().err


def test_nothing_is_left(fly, tmp_path):
    """Of a run that is refused later, no empty folders."""
    with pytest.raises((AssertionError, ValueError)):
        fly(*RUN, "--output_path", tmp_path / "new" / "out", "--use_cache", tmp_path / "c" / "x")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "c").exists()
