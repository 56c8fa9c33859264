"""The command's own face: its name, lm-eval's forms of calling it, errors without traceback."""

import json
import subprocess
import sys

import pytest

import fly as package
from fly.cli.command import with_verb


def assert_says_fly(out):
    """Our name where lm-eval has its own; its addresses stay whole."""
    assert "EleutherAI/lm-evaluation-harness" in out
    assert "lm-eval" not in out.replace("lm-evaluation-harness", "")


def test_help_says_fly_and_loads_no_torch():
    code = (
        "import sys\nfrom fly.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("usage: fly ")
    assert_says_fly(done.stdout)


@pytest.mark.parametrize("command", ["run", "ls", "validate"])
def test_help_of_subcommands_says_fly(fly, capsys, command):
    with pytest.raises(SystemExit) as end:
        fly(command, "--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.startswith("usage: fly")
    assert_says_fly(out)


def test_no_arguments_and_lone_run_print_help(fly, capsys):
    assert fly() == 0
    assert fly("run") == 0
    assert capsys.readouterr().out.count("usage: fly") == 2


def test_version(fly, capsys):
    with pytest.raises(SystemExit) as end:
        fly("--version")
    assert end.value.code == 0
    assert package.__version__ in capsys.readouterr().out


FORMS = {
    "flags alone": (["--model", "hf"], ["run", "--model", "hf"]),
    "one token": (["--config=x.yaml"], ["run", "--config=x.yaml"]),
    "subcommand": (["ls", "tasks"], ["ls", "tasks"]),
    "help": (["-h"], ["-h"]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("given", "expected"), FORMS.values(), ids=FORMS)
def test_run_is_put_in_front_of_flags(given, expected):
    assert with_verb(given, ["run", "ls", "validate"]) == expected


def test_unknown_flag_is_the_parsers_error(fly, capsys):
    with pytest.raises(SystemExit) as end:
        fly("--no_such_flag", "x")
    assert end.value.code == 2
    assert "no_such_flag" in capsys.readouterr().err


BAD = {  # model arguments, words of the error; nothing of it may reach a model or a task
    "missing configuration": ("config_path=nowhere.json", ["nowhere.json"]),
    "malformed configuration": ("config_path=broken.json", ["broken.json", "line 1"]),
    "unknown key": ("config_path={config},spd_q=4", ["spd_q", "spd_k"]),
    "no proposal": ("config_path={config},spd_k=0", ["spd_k", "0"]),
    "missing folder": ("config_path={config},pretrained=/no/model", ["/no/model"]),
    "differing drafts": ("config_path={config},pretrained=a/b,draft_model_path=c/d", ["a/b"]),
    "other tokenizers": ("config_path={config},dual_tok=true,drafter=model", ["dual_tok"]),
}


@pytest.mark.parametrize(("model_args", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_told_without_traceback(fly, pair, capsys, tmp_path, model_args, words):
    (tmp_path / "broken.json").write_text("{spd_k: 4}")
    arguments = model_args.format(config=pair.config)
    # The task does not exist either: the model's arguments are judged first.
    assert fly("--model", "hf", "--model_args", arguments, "--tasks", "no_such_task") == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words)
    assert "Traceback" not in err
    assert "Fix:" in err


def test_batch_of_none(fly, pair, capsys):
    arguments = ["--model_args", f"config_path={pair.config}", "--tasks", "no_such_task"]
    assert fly("--model", "hf", *arguments, "--batch_size", "0") == 2
    assert "batch_size" in capsys.readouterr().err


def test_errors_while_decoding_end_with_2_too(run_toy, pair, capsys):
    arguments = ["--model_args", f"config_path={pair.config}", "--gen_kwargs", "do_sample=True"]
    assert run_toy("--model", "hf", *arguments) == 2
    assert "do_sample" in capsys.readouterr().err


def test_own_tasks_are_listed_and_valid_without_a_flag(fly, capsys, tasks):
    assert fly("ls", "groups") == 0
    assert "fly_demo" in capsys.readouterr().out
    assert fly("ls", "subtasks", "--include_path", tasks) == 0
    out = capsys.readouterr().out
    assert "fly_demo_math" in out
    assert "toy_text" in out
    assert fly("validate", "--tasks", "fly_demo_math,fly_demo_code,fly_demo") == 0


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fly", "--model", "hf", "--model_args", "config_path=gone.json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": json.dumps(sys.path)[2:-2].replace('", "', ":"), "PATH": ""},
    )
    assert done.returncode == 2
    assert "gone.json" in done.stderr
    assert "Traceback" not in done.stderr
