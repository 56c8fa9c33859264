"""A rule or drafter that cannot decode at a request's temperature says so before anything is
decoded, whatever the configuration's temperature is."""

from typing import ClassVar

import pytest
import torch

from fly.acceptance import rules
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from fly.drafting import drafters
from fly.drafting.ngram import NgramDrafter
from fly.engine import Request, SpeculativeDecoder
from fly.errors import RequestError
from fly.settings import Traits
from tests.models import Bytes, Tape, tiny, tiny_tokenizer


@pytest.fixture(autouse=True)
def _greedy_only(registries):
    """A rule and a drafter of that name, for the length of a test."""

    @rules.register("greedy_rule")
    class GreedyRule(NativeRule):
        """Decides as native."""

        temperatures: ClassVar = "greedy"

    @drafters.register("greedy_drafter")
    class GreedyDrafter(NgramDrafter):
        """Looks n-grams up."""

        @classmethod
        def traits(cls, config):
            """Greedy requests only."""
            return Traits(temperatures="greedy")


CASES = {  # settings, temperature of the requests, what is said
    "sampled rule": (
        {"acceptance": "ears", "temperature": 0.7},
        0.0,
        "acceptance is 'ears', which decides where tokens are drawn, but temperature is 0",
    ),
    "greedy rule": (
        {"acceptance": "greedy_rule"},
        0.6,
        "acceptance is 'greedy_rule', which decodes greedily, but temperature is 0.6",
    ),
    "greedy drafter": (
        {"acceptance": "native", "drafter": "greedy_drafter"},
        0.6,
        "drafter is 'greedy_drafter', which decodes greedily, but temperature is 0.6",
    ),
}


@pytest.mark.filterwarnings("ignore:.*copies the context")
@pytest.mark.parametrize(("settings", "temperature", "said"), CASES.values(), ids=CASES)
def test_a_misfit_is_refused_before_anything_is_decoded(settings, temperature, said):
    target = Tape("an answer", eos=ord("_"))
    config = FLyConfig(**{"drafter": "ngram"} | settings)
    engine = SpeculativeDecoder(target, None, Bytes(), config)
    fits = config.temperature
    asked = [
        Request([5], 4, temperature=fits),
        Request([5], 4, temperature=temperature, key="sums"),
    ]
    with pytest.raises(RequestError, match=said) as caught:
        engine.decode(asked)
    assert str(caught.value).startswith("request 1 (task 'sums'): ")
    kind = said.partition(" ")[0]
    assert f"choose another {kind}" in caught.value.fix
    assert target.forwards == 0
    with pytest.raises(RequestError, match="request 0: ") as caught:
        engine.generate([[5]], temperature=temperature)
    assert target.forwards == 0
    assert engine.generate([[5]], max_new_tokens=3, temperature=fits)[0].token_ids


def test_plain_decoding_fits_every_temperature():
    config = FLyConfig(acceptance="ears", use_sd=False)
    engine = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), config)
    for temperature in (0.0, 0.9):
        [result] = engine.generate([[5, 9]], max_new_tokens=4, temperature=temperature)
        assert result.token_ids


def test_requests_that_fit_are_decoded_with_a_sampled_rule():
    config = FLyConfig(acceptance="block", drafter="ngram", temperature=1.0)
    engine = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), config)
    native = engine.with_config(FLyConfig(acceptance="native", drafter="ngram"))
    [own] = engine.generate([[5, 9] * 6], max_new_tokens=8, temperature=1e-4)
    [greedy] = native.generate([[5, 9] * 6], max_new_tokens=8)
    assert torch.tensor(own.token_ids).equal(torch.tensor(greedy.token_ids))
