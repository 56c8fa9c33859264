"""lm-eval's options do with our backend what they do with its own `hf` on the target: the same
prompts are built, and native acceptance gives the same answers."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.cli.test_harness import results_in
from tests.harness import pairs

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>{% endif %}{% endif %}"
)
CHAT = ["--apply_chat_template"]


@pytest.fixture(scope="module")
def chat_target(pair, tmp_path_factory) -> Path:
    """The target with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "target"
    shutil.copytree(pair.target, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prefix_tasks(tmp_path_factory) -> Path:
    """`toy_text` with an answer that is begun for the model."""
    folder = pairs.save_tasks(tmp_path_factory.mktemp("prefix") / "tasks")
    for file in folder.glob("*.yaml"):
        file.write_text(file.read_text() + 'gen_prefix: "Well,"\n')
    return folder


@pytest.fixture
def run(fly, tasks, pair, chat_target, tmp_path):
    """Runs `toy_text` with ours or with lm-eval's backend; results, and samples by document."""

    def run(ours: bool, *flags: str, folder: Path = tasks, **model_args: object):
        out = tmp_path / f"{'fly' if ours else 'hf'}_{len(list(tmp_path.iterdir()))}"
        target = {"target_model_path": str(chat_target), "config_path": str(pair.config)}
        given = target | {"acceptance": "native"} if ours else {"pretrained": str(chat_target)}
        shared = ["--include_path", folder, "--tasks", "toy_text", "--device", "cpu"]
        logged = [] if "--predict_only" in flags else ["--log_samples"]
        model = ["--model", "hf", "--model_args", json.dumps(given | model_args)]
        assert fly("run", *model, *shared, *logged, "--output_path", out, *flags) == 0
        [file] = out.rglob("samples_toy_text_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return results_in(out), {line["doc_id"]: line for line in lines}

    return run


def prompts(samples: dict[int, dict]) -> list[str]:
    return [sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples.values()]


SHOTS = ["--num_fewshot", "2", *CHAT]
OPTIONS = {  # flags, model arguments, what every prompt holds and how often
    "no option": ([], {}, "<user>", 0),
    "system_instruction": (["--system_instruction", "Be short.", *CHAT], {}, "<system>Be short", 1),
    "fewshot_as_multiturn": (["--fewshot_as_multiturn", "true", *SHOTS], {}, "<user>", 3),
    "one turn": (["--fewshot_as_multiturn", "false", *SHOTS], {}, "<user>", 1),
    "enable_thinking": (CHAT, {"enable_thinking": True, "think_end_token": "Q"}, "<think>", 1),
    "without thinking": (CHAT, {"enable_thinking": False}, "<think>", 0),
}


@pytest.mark.parametrize(("flags", "model_args", "word", "times"), OPTIONS.values(), ids=OPTIONS)
def test_prompts_and_answers_are_those_of_hf(run, flags, model_args, word, times):
    results, samples = run(True, *flags, **model_args)
    expected_results, expected = run(False, *flags, **model_args)
    assert samples == expected
    assert results["results"] == expected_results["results"]
    assert [prompt.count(word) for prompt in prompts(samples)] == [times] * 5
    assert any(sample["resps"][0][0] for sample in samples.values())


@pytest.mark.parametrize("flags", [[], CHAT], ids=["plain", "chat"])
def test_gen_prefix(run, prefix_tasks, flags):
    _, samples = run(True, *flags, folder=prefix_tasks)
    assert samples == run(False, *flags, folder=prefix_tasks)[1]
    assert all(prompt.endswith("Well,") for prompt in prompts(samples))


def test_limit(run):
    results, samples = run(True, "--limit", "2")
    assert samples == run(False, "--limit", "2")[1]
    assert list(samples) == [0, 1]
    assert results["n-samples"]["toy_text"] == {"original": 5, "effective": 2}
    assert results["speculative_decoding"]["overall"]["requests"] == 2


def test_predict_only(run):
    """Answers are logged without `--log_samples`, and no metric is computed."""
    results, samples = run(True, "--predict_only")
    expected_results, expected = run(False, "--predict_only")
    assert samples == expected
    assert results["results"] == expected_results["results"]
    assert "bypass,none" in results["results"]["toy_text"]
    assert len(samples) == results["speculative_decoding"]["overall"]["requests"] == 5


def test_log_samples(run, tmp_path):
    """The files of requests lie beside those of samples, a line for each."""
    _, samples = run(True)
    [file] = tmp_path.rglob("speculative_toy_text_*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["doc_id"] for line in lines) == sorted(samples)
    assert list(file.parent.glob("samples_toy_text_*.jsonl"))
