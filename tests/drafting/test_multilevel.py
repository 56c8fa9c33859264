"""Multi-level drafting proposes what chain drafting does, in fewer forwards where text repeats.

That its tokens are the draft's own is tested with chain drafting's, in test_model.py.
"""

import pytest
import torch

from fly.config import FLyConfig
from fly.decoding.model import SlotModel
from fly.drafting import End, Parts
from fly.drafting.model import ModelDrafter
from fly.drafting.multilevel import MultilevelDrafter
from tests.drafting.test_model import ragged, rows_of, started
from tests.models import VOCAB, Tape, greedy, ids_of, prompts, tiny

K = 12


def multilevel(model):
    return MultilevelDrafter(model, K, 4, 6, End())


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_equals_chain_drafting(kind, num_rows):
    model = tiny(kind, seed=1)
    rows = rows_of(*prompts(num_rows))
    chain = started(lambda slots: ModelDrafter(slots, K), model, rows)
    levels = started(multilevel, model, rows)
    for _ in range(4):
        offered = ragged(levels.propose(rows, [K] * num_rows))
        assert offered == ragged(chain.propose(rows, [K] * num_rows))
        for number, (row, tokens) in enumerate(zip(rows, offered, strict=True)):
            row.ids += [*tokens[: number * 3], 40 + number]
        chain.commit(rows)
        levels.commit(rows)


def test_fewer_forwards_on_repetitive_text():
    text = "abcabcabcabc"
    tape = Tape("_" * (len(text) - 1) + "abc" * 8)
    rows = rows_of(ids_of(text))
    drafter = started(multilevel, tape, rows)
    proposal = drafter.propose(rows, [K])
    assert ragged(proposal) == [ids_of("abc" * 4)]
    # A guess of 6 that holds brings 7 tokens.
    assert proposal.draft_forwards == 2
    assert drafter.steps == [[(True, ids_of("abcabc"), 7), (True, ids_of("bcabca"), 7)]]


def test_never_more_forwards_than_chain_drafting():
    model = tiny("llama", seed=1)
    rows = rows_of(*prompts(4))
    assert started(multilevel, model, rows).propose(rows, [K] * 4).draft_forwards <= K


def test_without_a_guess_a_plain_step():
    rows = rows_of(ids_of("abcd"))
    drafter = started(multilevel, Tape("___efghijklmnopq"), rows)
    proposal = drafter.propose(rows, [3])
    assert ragged(proposal) == [ids_of("efg")]
    assert drafter.steps == [[(False, [], 1)] * 3]


def test_a_guess_that_finds_nothing_keeps_the_one_before():
    rows = rows_of(ids_of("abab"))
    # The guess after "abab" is "ab": wrong at once.  "abab?" is not found, so "ab" is tried again.
    drafter = started(multilevel, Tape("___?ab!"), rows)
    assert ragged(drafter.propose(rows, [4])) == [ids_of("?ab!")]
    assert drafter.steps == [[(True, ids_of("ab"), 1), (False, ids_of("ab"), 3)]]


def test_surplus_tokens_are_dropped_and_forgotten():
    """A guess may bring more than K tokens; they are neither proposed nor indexed."""
    text = "abcabcabc"
    rows = rows_of(ids_of(text))
    drafter = started(multilevel, Tape("_" * (len(text) - 1) + "abc" * 8), rows)
    assert ragged(drafter.propose(rows, [3])) == [ids_of("abc")]
    rows[0].ids += ids_of("x")
    drafter.commit(rows)
    assert drafter._rows[0].ids == ids_of("abcabcabcx")


def test_a_moved_row_keeps_its_guesses():
    text = "abcabcabcabc"
    rows = rows_of(ids_of("uvwxyz"), ids_of(text))
    drafter = started(multilevel, Tape("_" * (len(text) - 1) + "abc" * 8), rows)
    drafter.move(1, 0, len(text))
    proposal = drafter.propose(rows[1:], [K])
    assert ragged(proposal) == [ids_of("abc" * 4)]
    assert proposal.draft_forwards == 2


@pytest.mark.parametrize(
    ("lookahead", "offered"),
    [(0, "abcabc."), (1, "abcabc."), (3, "abcabc.ab"), (99, "abcabc.abcab")],
)
def test_stops_behind_an_end(lookahead, offered):
    """Only what the rule must see behind an end token is drafted, in every row of its own."""
    text = "abcabc"
    end = End(frozenset(ids_of(".")), lookahead)
    rows = rows_of(ids_of(text), ids_of(text + "!"))
    tape = Tape("_" * (len(text) - 1) + "abcabc.abcabcabcabc")
    drafter = started(lambda model: MultilevelDrafter(model, K, 4, 6, end), tape, rows)
    both = ragged(drafter.propose(rows, [K, 2]))
    assert both == [ids_of(offered), ids_of("bc")], "a limit is never raised"


def test_rows_that_finish_early_wait_unharmed():
    """Rows need different numbers of forwards; those that are done are not overwritten."""
    model = tiny("llama", seed=1)
    texts = [list(range(4, 20)), [5], [6, 7] * 8]
    rows = rows_of(*texts)
    drafter = started(multilevel, model, rows)
    limits = [K, 1, 5]
    for _ in range(3):
        offered = ragged(drafter.propose(rows, limits))
        for row, limit, tokens in zip(rows, limits, offered, strict=True):
            assert tokens == greedy(model, row.ids, limit)
            row.ids += tokens  # without a bonus: the cache may lack one token only
        drafter.commit(rows)


def test_from_config():
    config = FLyConfig(use_ngram=True, spd_k=9, max_ngram_size=3, num_ngram_pred_tokens=2)
    model = SlotModel(tiny("llama"))
    drafter = MultilevelDrafter.from_config(config, Parts(torch.device("cpu"), VOCAB, model=model))
    assert (drafter.k, drafter.guess_length, drafter._rows.max_ngram) == (9, 2, 3)
