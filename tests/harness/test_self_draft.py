"""`FLyLM` with a draft made of the target: no draft model is named or loaded."""

import pytest
from lm_eval.models.huggingface import HFLM

from fly.harness import FLyLM
from tests.harness import pairs
from tests.harness.test_lm import instances

PROMPTS = ["a longer prompt here", "b", "some words", "c d"]


@pytest.mark.parametrize("settings", [{"left_out": [1]}, {"how": "int8"}], ids=["layers", "int8"])
def test_answers_are_hflms(pair, tmp_path, settings):
    file = pairs.save_config(
        tmp_path / "self.json",
        pair.target,
        drafter="self",
        drafter_settings=settings,
        acceptance="native",
    )
    lm = FLyLM(config_path=str(file), device="cpu", batch_size=3)
    assert lm.draft is None
    requests = instances(PROMPTS, until=["\n"], max_gen_toks=12, do_sample=False)
    reference = HFLM(pretrained=str(pair.target), device="cpu", batch_size=1)
    want = reference.generate_until(requests, disable_tqdm=True)
    assert lm.generate_until(requests, disable_tqdm=True) == want
    block = lm.speculative_decoding()
    assert block["draft"] is None
    assert block["served"] == {"target": "batched", "draft": "batched", "drafter": "self"}
    assert lm.get_model_info()["draft_model_path"] is None
