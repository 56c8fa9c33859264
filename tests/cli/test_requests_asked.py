"""What reaches the engine is what this command asked for: generation arguments of any form, the
chat template that was named, and never those of an earlier command."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from tests.cli.test_harness import results_in
from tests.harness.pairs import byte_tokenizer

CHAT = "{% for m in messages %}START{{ m['content'] }}{% endfor %}"
TEMPLATES = {"default": CHAT.replace("START", "D:"), "plain": CHAT.replace("START", "P:")}


@pytest.fixture
def run(run_toy, pair, tasks, tmp_path):
    """Run `toy_text`, changed as told, and return the samples' prompts and answers; or where the
    command fails, nothing."""

    def run(*more, changed=None, model_args="", model="hf"):
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        text = (tasks / "toy_text.yaml").read_text().replace("toy_text", "asked")
        for old, new in (changed or {}).items():
            assert old in text
            text = text.replace(old, new)
        (folder / "asked.yaml").write_text(text)
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        known = f"pretrained={pair.target}" if model == "other" else f"config_path={pair.config}"
        given = ["--model", "hf", "--model_args", f"{known}{model_args}", "--output_path", out]
        if run_toy(*given, "--log_samples", *more, names=["asked"], folder=folder) != 0:
            return None
        [file] = out.rglob("samples_asked_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [
            (line["arguments"]["gen_args_0"]["arg_0"], line["resps"][0][0])
            for line in sorted(lines, key=lambda line: line["doc_id"])
        ]

    return run


UNTIL, FLAG, BUDGET = 'until: ["\\n"]', "do_sample: false", "max_gen_toks: 12"
ODD = [
    {UNTIL: "until: null", FLAG: 'do_sample: "False"\n  temperature: 0.7'},
    {UNTIL: "until: []", FLAG: "temperature: null", BUDGET: 'max_gen_toks: "12"'},
]


def test_odd_forms_mean_what_they_say(run):
    plain = run(changed={UNTIL: "until: []"})
    assert plain
    assert [run(changed=changed) for changed in ODD] == [plain, plain]


WRONG = {
    "until": ({UNTIL: "until: 5"}, "task 'asked': until is 5"),
    "temperature": ({FLAG: 'temperature: "x"'}, "task 'asked': temperature is 'x'"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_impossible_arguments_of_a_task(run, changed, message, capsys):
    assert run(changed=changed) is None
    assert message in capsys.readouterr().err


GIVEN = {
    "until=5": "until is 5",
    "temperature=x": "temperature is 'x'",
    "top_p=0": "top_p is 0",
    "max_gen_toks=0": "max_gen_toks is 0",
    '{"until": ["a\\ud800"]}': "until, ['a\\ud800'], holds a lone surrogate",
}


@pytest.mark.parametrize("given", GIVEN)
def test_impossible_arguments_of_the_command_end_it_before_models_are_loaded(
    run, given, capsys, monkeypatch
):
    monkeypatch.setattr("fly.harness.lm.FLyLM.__init__", None)
    assert run("--gen_kwargs", given) is None
    assert f"--gen_kwargs: {GIVEN[given]}" in capsys.readouterr().err


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of lm-eval's built requests."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "built"))
    return tmp_path / "built"


def test_built_requests_are_not_another_commands(run, cache, monkeypatch):
    kept = ["--cache_requests", "true", "--num_fewshot", "0"]
    drawn = ["--gen_kwargs", "do_sample=True,temperature=3.0"]
    greedy = run(*kept)
    assert run(*kept, *drawn) == run(*drawn) != greedy
    other = {"{{question}}": "{{question}}!"}
    assert next(prompt for prompt, _ in run(*kept, changed=other)).endswith("!")
    assert len(list(cache.iterdir())) == 3

    def refuse(*_, **__):
        raise AssertionError("built again")

    monkeypatch.setattr("lm_eval.api.task.ConfigurableTask.fewshot_context", refuse)
    assert run(*kept, "--limit", "2") == greedy[:2]


@pytest.fixture
def chatting(pair, tmp_path):
    """Model arguments of the pair whose target's tokenizer has two named templates."""
    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    tokenizer.chat_template = TEMPLATES
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return f",tokenizer={tmp_path / 'tokenizer'}"


def test_the_template_that_is_named_is_applied(run, chatting, cache):
    for name, start in (("plain", "P:"), ("default", "D:")):
        given = ["--apply_chat_template", name, "--cache_requests", "true"]
        assert all(prompt.startswith(start) for prompt, _ in run(*given, model_args=chatting))
    unnamed = run("--apply_chat_template", model_args=chatting)
    assert all(prompt.startswith("D:") for prompt, _ in unnamed)


@pytest.mark.parametrize("has_two", [True, False])
def test_templates_that_are_not_there(run, chatting, capsys, monkeypatch, has_two):
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM._create_model", None)
    model_args = chatting if has_two else ""
    assert run("--apply_chat_template", "fancy", model_args=model_args) is None
    error = capsys.readouterr().err
    assert "names 'fancy'" in error
    assert ("'default', 'plain'" if has_two else "none") in error


def test_end_tokens_of_the_command_are_those_of_hf(run):
    """A character out of the middle of an answer ends them all."""
    native = ",acceptance=native"
    plain = run(model_args=native)
    [end, *_] = [char for _, text in plain for char in text[1:] if char.isascii()]
    [end] = byte_tokenizer()(end).input_ids
    asked = ["--gen_kwargs", f"eos_token_id={end}"]
    assert run(*asked, model_args=native) == run(*asked, model="other") != plain


def test_results_name_no_template_argument(run, chatting, tmp_path):
    run("--apply_chat_template", "plain", model_args=chatting)
    config = results_in(tmp_path / "out")["config"]
    assert "chat_template_name" not in config["model_args"]
    assert "P:" in results_in(tmp_path / "out")["chat_template"]
