"""`FLyLM` next to lm-eval's HFLM on one target: the embedded pair.

Asks what lm-eval's own test of its `hf` model asks (tests/models/test_huggingface.py in its
repository; its wheel and sdist do not carry it): scores of multiple choice and which choice is
best, rolling scores, generated texts with a small budget, encoding and decoding of one text and of
several, `_model_generate`.  It compares with figures noted down for pythia-70m on items from the
hub; those do not apply to another model, and here HFLM itself, asked the same, takes their place.
Added: logits, lengths, special tokens, chat template, thinking.
"""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text

from fly.demo import TARGET_PATH
from fly.demo.problems import heldout
from fly.harness import FLyLM
from tests.harness.test_lm import instances

CONFIG = str(TARGET_PATH.parents[2] / "fly_config" / "demo.json")
NUM_ITEMS, NUM_CHOICES = 10, 4
MAX_LENGTH = 128  # so that rolling takes several windows
PAIR = ["foo bar", "bar foo and more"]
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "How many apples?"},
    {"role": "assistant", "content": "Answer:"},
]


@pytest.fixture(scope="module")
def ours():
    return FLyLM(config_path=CONFIG, device="cpu", batch_size=4, acceptance="native")


@pytest.fixture(scope="module")
def theirs():
    return HFLM(pretrained=str(TARGET_PATH), device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def problems():
    return [one for kind in ("arithmetic", "code") for one in heldout(kind, NUM_ITEMS // 2, seed=3)]


def scoring(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [
        Instance(kind, {}, one, index, ("toy", index, 1)) for index, one in enumerate(arguments)
    ]


def test_multiple_choice(ours, theirs, problems):
    ends = [problem.solution for problem in problems]
    choices = [
        (problem.prompt, ends[(index + shift) % len(ends)])
        for index, problem in enumerate(problems)
        for shift in range(NUM_CHOICES)
    ]
    requests = scoring("loglikelihood", choices)
    scores, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    values, right = (torch.tensor([value for value, _ in some]) for some in (scores, expected))
    torch.testing.assert_close(values, right, atol=1e-5, rtol=1e-6)
    best = values.view(-1, NUM_CHOICES).argmax(1)
    assert torch.equal(best, right.view(-1, NUM_CHOICES).argmax(1))
    assert (best == 0).float().mean() > 0.5  # the first is the item's own


def test_rolling_scores(problems):
    texts = [("\n\n".join(one.prompt + one.solution for one in problems[:n]),) for n in (1, 5, 10)]
    options = {"device": "cpu", "max_length": MAX_LENGTH}
    ours = FLyLM(config_path=CONFIG, use_sd=False, **options)
    theirs = HFLM(pretrained=str(TARGET_PATH), **options)
    assert len(theirs.tok_encode(texts[-1][0])) > 3 * MAX_LENGTH
    requests = scoring("loglikelihood_rolling", texts)
    scores = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert scores == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("until", "budget"), [([], 10), (["\n", "return"], 64)])
def test_generated_texts(ours, theirs, problems, until, budget):
    requests = instances(
        [one.prompt for one in problems], until=until, max_gen_toks=budget, do_sample=False
    )
    texts = ours.generate_until(requests, disable_tqdm=True)
    assert texts == theirs.generate_until(requests, disable_tqdm=True)
    assert len(set(texts)) > NUM_ITEMS // 2


def test_encoding(ours, theirs):
    for text in (*PAIR, "", " é\n\t中"):
        ids = ours.tok_encode(text)
        assert ids == theirs.tok_encode(text)
        assert ours.tok_decode(ids) == theirs.tok_decode(ids) == text
    for ours_part, theirs_part in zip(
        ours.tok_batch_encode(PAIR), theirs.tok_batch_encode(PAIR), strict=True
    ):
        assert torch.equal(ours_part, theirs_part)
    assert ours._encode_pair("a b ", "c") == theirs._encode_pair("a b ", "c")


def test_model_calls(ours, theirs):
    ids, mask = theirs.tok_batch_encode(PAIR)
    torch.testing.assert_close(ours._model_call(ids), theirs._model_call(ids), atol=1e-5, rtol=0)
    given = {"max_length": ids.shape[1] + 8, "stop": ["\n\n"], "attention_mask": mask}
    assert torch.equal(ours._model_generate(ids, **given), theirs._model_generate(ids, **given))


@pytest.mark.parametrize(
    "name",
    ["max_length", "max_gen_toks", "eot_token_id", "prefix_token_id", "vocab_size"],
)
def test_properties(ours, theirs, name):
    assert getattr(ours, name) == getattr(theirs, name)


def test_chat_template(ours, theirs):
    for chat, opens in ((CHAT[:2], True), (CHAT, False)):
        text = ours.apply_chat_template(chat, add_generation_prompt=opens)
        assert text == theirs.apply_chat_template(chat, add_generation_prompt=opens)
        assert "How many apples?" in text
    assert ours.chat_template() == theirs.chat_template()
    assert ours.tokenizer_name == theirs.tokenizer_name


def test_the_tokenizers_end_token_ends_an_answer(ours, theirs, problems, monkeypatch):
    """Whatever the generation config says: HFLM takes its text for a stop string."""
    for each in (ours, theirs):
        monkeypatch.setattr(each.model.generation_config, "eos_token_id", 5)
    vars(ours).pop("decoder", None)  # made anew, and once more behind this test
    requests = instances([problems[3].prompt], until=[], max_gen_toks=192, do_sample=False)
    texts = ours.generate_until(requests, disable_tqdm=True)
    vars(ours).pop("decoder")
    assert ours._records[0].finish_reason == "eos"
    assert texts == theirs.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize("as_id", [False, True], ids=["string", "id"])
def test_think_end_token(theirs, problems, monkeypatch, as_id):
    """Where the answer has the token and where it has not; some answers begin with a space."""
    asked = [one.prompt for one in problems[3:7]]
    requests = instances(asked, until=["\n\nQ"], max_gen_toks=24, do_sample=False)
    plain = theirs.generate_until(requests, disable_tqdm=True)
    end = plain[0].split()[2]
    token: str | int = theirs.tok_encode(f" {end}")[-1] if as_id else end
    options = {"device": "cpu", "think_end_token": token, "enable_thinking": True}
    thinking = FLyLM(config_path=CONFIG, acceptance="native", batch_size=4, **options)
    assert thinking.chat_template_args == {"enable_thinking": True}
    monkeypatch.setattr(theirs, "think_end_token", thinking.think_end_token)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert thinking.generate_until(requests, disable_tqdm=True) == expected
    assert expected[0] == plain[0].rpartition(end)[2].lstrip()


def test_stop_strings_count_behind_the_thinking(theirs, problems):
    """HFLM stops inside it when it decodes alone, and where its longest answer is over in a batch;
    here the answer is what HFLM would cut from the text that goes on."""
    asked = [one.prompt for one in problems[3:7]]
    free = {"until": [], "max_gen_toks": 40, "do_sample": False}
    whole = theirs.generate_until(instances(asked, **free), disable_tqdm=True)
    marker = "nd we get"
    assert not any(marker in prompt for prompt in asked)
    head, tail = whole[0].split(marker)
    stop = next(letter for letter in head.strip() if letter in tail[4:])
    requests = instances(asked, **free | {"until": [stop]})
    options = {"device": "cpu", "batch_size": 4, "think_end_token": marker}
    lm = FLyLM(config_path=CONFIG, acceptance="native", **options)
    texts = lm.generate_until(requests, disable_tqdm=True)
    assert texts == [postprocess_generated_text(text, [stop], marker) for text in whole]
    counted = lm.speculative_decoding()["overall"]["counters"]["unfinished_thinking"]
    assert counted == sum(marker not in text for text in whole) == 2
    assert sorted(record.finish_reason for record in lm._records) == ["length"] * 3 + ["stop"]
