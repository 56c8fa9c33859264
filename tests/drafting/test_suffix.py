"""Suffix drafting: every row continues its longest match, in its own text or in earlier answers."""

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext
from fly.drafting.lookup import SuffixAutomaton, continuation
from fly.drafting.suffix import SuffixDrafter, SuffixSettings
from fly.engine import SpeculativeDecoder
from fly.errors import ConfigError
from fly.workbench.sweeps.shared import SharedDecoding
from tests.drafting.test_automaton import longest_earlier
from tests.drafting.test_chain import K, leave, play, ragged, rows_of
from tests.models import (
    VOCAB,
    assert_same,
    generated,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

CPU = torch.device("cpu")
WIDE = {"max_factor": 99.0}


def drafter_of(k=8, **settings):
    return SuffixDrafter(k, SuffixSettings(**settings))


def letters(proposal):
    assert proposal.draft_forwards == 0
    return ["".join(map(chr, ids)) for ids in ragged(proposal)]


def proposed(texts, limits, **settings):
    rows, drafter = rows_of(*map(ids_of, texts)), drafter_of(**settings)
    drafter.prefill(rows)
    return letters(drafter.propose(rows, limits))


def test_rows_look_up_their_own_text():
    assert proposed(["abcdabc", "abc", "x"], [9, 9, 9], **WIDE) == ["dabcdabc", "", ""]


def test_a_proposal_is_bounded_by_the_match():
    text = "abcdefabc"
    assert proposed([text], [9]) == ["def"]
    assert proposed([text], [9], max_factor=2.0) == ["defabc"]
    assert proposed([text], [9], max_factor=0.5) == ["d"]
    assert proposed([text], [2]) == ["de"]
    assert proposed([text], [0]) == [""]
    assert proposed(["ab" * 20], [99]) == ["ab" * 4], "at most K"


def test_short_matches_propose_nothing():
    assert proposed(["abcdefabc"], [9], min_match=3) == ["def"]
    assert proposed(["abcdefabc"], [9], min_match=4) == [""]


def test_a_period_goes_on_behind_the_text():
    assert proposed(["xabab"], [9], max_factor=4.0) == ["abababab"]


def test_over_many_rounds():
    """Rows that leave, move and come in; what is proposed follows a longest match."""
    found = 0
    for ids, limit, tokens in play(lambda _: drafter_of(K), tiny("llama"), 4, 30):
        length = longest_earlier(ids)
        assert len(tokens) == min(K, limit, length)
        alone = SuffixAutomaton()
        alone.extend(ids)
        assert tokens == continuation(ids, alone.match.end, len(tokens))
        found += bool(tokens)
    assert found > 10


def finish(drafter, prompt, answer):
    """One request alone, from prompt to end."""
    rows = rows_of(ids_of(prompt))
    drafter.prefill(rows)
    rows[0].ids += ids_of(answer)
    drafter.commit(rows)
    drafter.forget(rows[0].index)


def ask(drafter, text, limit=9):
    rows = rows_of(ids_of(text))
    drafter.prefill(rows)
    return letters(drafter.propose(rows, [limit]))[0]


def test_the_store_is_asked_where_the_own_text_knows_less():
    drafter = drafter_of(store_tokens=100, **WIDE)
    finish(drafter, "question", "hello world")
    assert ask(drafter, "so hel") == "lo world", "up to the answer's end"
    assert ask(drafter, "hel-hel") == "-hel-hel", "of equal matches the own"
    assert ask(drafter, "el-hel") == "lo world"
    assert ask(drafter, "quest") == "", "prompts are not kept"
    assert ask(drafter_of(**WIDE), "so hel") == ""


def test_the_newest_answer_of_those_that_match_alike_is_another_generation_s():
    drafter = drafter_of(store_tokens=20, **WIDE)
    for answer in ("abc1", "abc2", "abc3"):
        finish(drafter, "?", answer)
    assert ask(drafter, "x abc") == "3"


def test_answers_that_come_in_meanwhile_are_found():
    drafter = drafter_of(store_tokens=100, **WIDE)
    rows = rows_of(ids_of("first"), ids_of("now hel"))
    drafter.prefill(rows)
    rows[0].ids += ids_of("hello")
    drafter.commit(rows)
    assert letters(drafter.propose(rows, [9, 9]))[1] == ""
    leave(drafter, rows, 0)
    rows[0].ids += ids_of("l")
    drafter.commit(rows)
    assert letters(drafter.propose(rows, [9])) == ["o"]
    drafter.prefill([*rows, *rows_of(ids_of("?"))])
    assert len(drafter._store) == len("hello") + 1, "a row that moved has not ended"


def test_settings():
    native = {"drafter": "suffix", "acceptance": "native"}
    config = FLyConfig(**native, spd_k=9, drafter_settings={"store_tokens": 50})
    drafter = SuffixDrafter.from_config(config.setup.drafter, DrafterContext(CPU, VOCAB))
    assert (drafter.k, drafter.settings) == (9, SuffixSettings(store_tokens=50))
    assert config.setup.traits.remembers
    assert config.setup.traits.copies_context
    assert not FLyConfig(**native).setup.traits.remembers
    with pytest.raises(ConfigError, match="min_match"):
        FLyConfig(drafter="suffix", drafter_settings={"min_match": 0})


def test_points_of_a_sweep_do_not_share_a_store():
    config = FLyConfig(drafter="suffix", acceptance="native", drafter_settings={"store_tokens": 50})
    with pytest.raises(ConfigError, match="earlier requests"):
        SharedDecoding(tiny("llama"), None, tiny_tokenizer(), {"one": config})


@pytest.mark.parametrize("store_tokens", [0, 60, 10_000])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_native_text_is_the_target_s_own(batch_size, store_tokens):
    target = tiny("llama")
    config = FLyConfig(
        drafter="suffix",
        acceptance="native",
        spd_k=6,
        draft_length="fixed",  # or it would be given up where it does not pay
        drafter_settings={"max_factor": 3.0, "store_tokens": store_tokens},
    )
    decoder = SpeculativeDecoder(target, None, tiny_tokenizer(), config, batch_size=batch_size)
    asked = [*prompts(10), *prompts(10)[:5]]  # some a second time: the store knows their answers
    results = decoder.generate(asked, max_new_tokens=40)
    own = [generated(target, prompt, 40) for prompt in asked]
    assert_same(target, asked, [result.token_ids for result in results], own)
    matched = sum(result.statistics.matched for result in results)
    assert matched > (100 if store_tokens == 10_000 and batch_size == 1 else 10)
