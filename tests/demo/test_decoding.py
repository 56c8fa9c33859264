"""The embedded pair through the engine: real answers that end, in prose and in code."""

import pytest

from fly.config import FLyConfig
from fly.demo.problems import heldout
from fly.engine import Result, SpeculativeDecoder, Statistics
from tests.crossing import mostly_slow
from tests.models import assert_same, demo_model, demo_tokenizer, generated

NUM_OF_KIND = 4
MAX_NEW_TOKENS = 192


@pytest.fixture(scope="module")
def asked():
    problems = [p for kind in ("arithmetic", "code") for p in heldout(kind, NUM_OF_KIND, seed=7)]
    return [tuple(demo_tokenizer()(problem.prompt).input_ids) for problem in problems]


def decode(asked, batch_size, **settings) -> list[Result]:
    target, draft = demo_model("target"), demo_model("draft")
    config = FLyConfig(**settings)
    decoder = SpeculativeDecoder(target, draft, demo_tokenizer(), config, batch_size=batch_size)
    return decoder.generate(asked, max_new_tokens=MAX_NEW_TOKENS)


@pytest.mark.parametrize("batch_size", mostly_slow([3, 1, 8]))
def test_native_text_equals_generate(asked, batch_size):
    results = decode(asked, batch_size, acceptance="native")
    own = [generated(demo_model("target"), ids, MAX_NEW_TOKENS) for ids in asked]
    assert_same(demo_model("target"), asked, [result.token_ids for result in results], own)
    assert {result.finish_reason for result in results} == {"eos"}
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.matched > counts.corrections > 10


@pytest.mark.parametrize("acceptance", ["native", "fly"])
def test_multilevel_answers_as_the_chain_does(asked, acceptance):
    """Its proposals end sooner behind an end token; no decision hangs on what is missing."""
    chain = decode(asked, 3, acceptance=acceptance)
    levels = decode(asked, 3, acceptance=acceptance, drafter="multilevel")
    assert [result.token_ids for result in levels] == [result.token_ids for result in chain]
    for ours, theirs in zip(levels, chain, strict=True):
        assert ours.statistics.loose == theirs.statistics.loose
        assert ours.statistics.proposed <= theirs.statistics.proposed
    loose = sum(result.statistics.loose for result in chain)
    assert loose > 0 if acceptance == "fly" else loose == 0
    proposed = [sum(r.statistics.proposed for r in results) for results in (levels, chain)]
    assert proposed[0] < proposed[1]


def test_trees_gain_more_than_the_chain_that_is_in_them(asked):
    """At the official sizes; the text is the target's."""
    chain, trees = (
        decode(asked, 4, acceptance="native", tree_verify=is_tree) for is_tree in (False, True)
    )
    assert [result.token_ids for result in trees] == [result.token_ids for result in chain]
    tau = [
        sum((r.statistics for r in results), Statistics()).metrics()["mean_acceptance_length"]
        for results in (chain, trees)
    ]
    assert tau[1] > 1.2 * tau[0]
