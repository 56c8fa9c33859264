"""N-gram drafting: every row looks up its own text, whatever becomes of its neighbours."""

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext
from fly.drafting.ngram import NgramDrafter
from fly.errors import ConfigError
from tests.drafting.test_chain import K, play, ragged, rows_of
from tests.drafting.test_lookup import search
from tests.models import VOCAB, ids_of, tiny

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("which", ["earliest", "latest"])


def proposed(texts, limits, k=4, which="earliest"):
    rows = rows_of(*map(ids_of, texts))
    drafter = NgramDrafter(k, 3, which)
    drafter.prefill(rows)
    proposal = drafter.propose(rows, limits)
    assert proposal.draft_forwards == 0
    return ["".join(map(chr, ids)) for ids in ragged(proposal)]


def test_rows_look_up_their_own_text():
    assert proposed(["abcdabc", "xyxy", "abc"], [9, 9, 9]) == ["dabc", "xy", ""]


def test_the_latest_match():
    texts = ["abcabdab", "ab1ab2ab"]
    assert proposed(texts, [2, 2]) == ["ca", "1a"]
    assert proposed(texts, [2, 2], which="latest") == ["da", "2a"]


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
@BOTH
def test_short_prompts_propose_nothing(text, which):
    assert proposed([text], [9], which=which) == [""]


def test_limits():
    assert proposed(["abcdabc"] * 4, [0, 1, 3, 9]) == ["", "d", "dab", "dabc"]


@BOTH
def test_equals_a_search_over_many_rounds(which):
    repetitive = 0
    for ids, limit, tokens in play(lambda _: NgramDrafter(K, 3, which), tiny("llama"), 4, 30):
        assert tokens == search(ids, 3, min(K, limit), which)
        repetitive += bool(tokens)
    assert repetitive > 10


def test_from_config():
    config = FLyConfig(drafter="ngram", acceptance="native", spd_k=9, max_ngram_size=3)
    assert config.setup.traits.copies_context
    drafter = NgramDrafter.from_config(config.setup.drafter, DrafterContext(CPU, VOCAB))
    assert (drafter.k, drafter.max_ngram, drafter.which) == (9, 3, "earliest")
    config = FLyConfig(drafter="ngram", acceptance="native", drafter_settings={"match": "latest"})
    assert (
        NgramDrafter.from_config(config.setup.drafter, DrafterContext(CPU, VOCAB)).which == "latest"
    )


def test_an_unknown_match_is_refused():
    with pytest.raises(ConfigError, match=r"match.*'newest'"):
        FLyConfig(drafter="ngram", drafter_settings={"match": "newest"})
