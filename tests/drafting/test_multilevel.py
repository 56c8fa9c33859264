"""Multi-level drafting proposes what chain drafting does, in fewer forwards where text repeats.

That its tokens are the draft's own is tested with chain drafting's, in test_model.py.
"""

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext, StopInfo
from fly.drafting.chain import ModelDrafter
from fly.drafting.guesses import NgramText, RecentText, SuffixText
from fly.drafting.multilevel import GUESS_COST, Levels, MultilevelDrafter
from fly.engine import Request, SpeculativeDecoder
from fly.engine.model.slots import SlotModel
from fly.errors import ConfigError
from tests.crossing import mostly_slow
from tests.drafting.test_chain import leave, ragged, rows_of, started
from tests.models import (
    VOCAB,
    Tape,
    blurred,
    greedy,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

K = 12


def ngrams():
    return NgramText(4)


def multilevel(model):
    """As the released code guesses."""
    return MultilevelDrafter(model, K, ngrams, 6, StopInfo(), 0.0)


MAKERS = {
    "free": multilevel,
    "paying": lambda model: MultilevelDrafter(model, K, lambda: RecentText(4), 6, StopInfo()),
    "suffix": lambda model: MultilevelDrafter(model, K, SuffixText, 6, StopInfo()),
}
EACH = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "qwen3", "mistral"]))
@EACH
def test_equals_chain_drafting(make, kind, num_rows):
    model = tiny(kind, seed=1)
    rows = rows_of(*prompts(num_rows))
    chain = started(lambda slots: ModelDrafter(slots, K), model, rows)
    levels = started(make, model, rows)
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


@EACH
def test_never_more_forwards_than_chain_drafting(make):
    model = tiny("llama", seed=1)
    rows = rows_of(*prompts(4))
    assert started(make, model, rows).propose(rows, [K] * 4).draft_forwards <= K


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
    [guesser] = drafter._index(rows)
    assert guesser.text.ids == ids_of("abcabcabcx")


REPEATING, NEW = "abcabcabcabc", "uvwxyzopqrst"


@pytest.mark.parametrize(
    ("texts", "limits", "cost", "longest"),
    [
        ((REPEATING, NEW), (K - 1, K), GUESS_COST, 0),
        ((REPEATING, NEW), (K, K - 1), GUESS_COST, 6),
        ((REPEATING, NEW), (K, K), GUESS_COST, 3),
        ((NEW, REPEATING), (K, K), GUESS_COST, 3),
        ((REPEATING, NEW), (K - 1, K), 0.0, 6),
    ],
)
def test_guesses_are_as_long_as_the_rows_with_most_tokens_left_want_them(
    texts, limits, cost, longest
):
    """The others wait for these anyway, and a long guess makes the forward longer for all."""
    rows = rows_of(*map(ids_of, texts))
    drafter = started(
        lambda model: MultilevelDrafter(model, K, ngrams, 6, StopInfo(), cost),
        Tape("_" * 11 + "abcabcabcABCDEF"),
        rows,
    )
    for guesser in drafter._guessers.values():
        guesser._right, guesser._noted = [9.0] * 9, [9.0] * 9  # so that long guesses pay
    drafter.propose(rows, list(limits))
    first = drafter.steps[texts.index(REPEATING)][0]
    assert first[0], "there is a match"
    assert len(first[1]) == longest
    assert drafter.steps[texts.index(NEW)][0][1] == []


def test_what_was_refused_is_found_again_in_fewer_forwards():
    """The target puts one token right, and the draft goes on as it would have anyway."""
    prompt = "uvwxyzopqrst"
    tape = Tape("_" * (len(prompt) - 1) + "abcdefghijklmnopqrstuvwxyz")
    forwards = {}
    for name in ("latest", "earliest"):
        text = {"latest": lambda: RecentText(4), "earliest": ngrams}[name]
        rows = rows_of(ids_of(prompt))
        drafter = started(
            lambda model, text=text: MultilevelDrafter(model, K, text, 6, StopInfo()), tape, rows
        )
        assert ragged(drafter.propose(rows, [K])) == [ids_of("abcdefghijkl")]
        rows[0].ids += ids_of("!")
        drafter.commit(rows)
        proposal = drafter.propose(rows, [K])
        assert ragged(proposal) == [ids_of("bcdefghijklm")]
        forwards[name] = proposal.draft_forwards
    assert forwards["earliest"] == K
    assert forwards["latest"] < K / 2


def test_a_moved_row_keeps_its_guesses():
    text = "abcabcabcabc"
    rows = rows_of(ids_of("uvwxyz"), ids_of(text))
    drafter = started(multilevel, Tape("_" * (len(text) - 1) + "abc" * 8), rows)
    leave(drafter, rows, 0)
    proposal = drafter.propose(rows, [K])
    assert ragged(proposal) == [ids_of("abc" * 4)]
    assert proposal.draft_forwards == 2


@pytest.mark.parametrize(
    ("lookahead", "offered"),
    [(0, "abcabc."), (1, "abcabc."), (3, "abcabc.ab"), (99, "abcabc.abcab")],
)
def test_stops_behind_an_end(lookahead, offered):
    """Only what the rule must see behind an end token is drafted, in every row of its own."""
    text = "abcabc"
    end = StopInfo(frozenset(ids_of(".")), lookahead)
    rows = rows_of(ids_of(text), ids_of(text + "!"))
    tape = Tape("_" * (len(text) - 1) + "abcabc.abcabcabcabc")
    drafter = started(lambda model: MultilevelDrafter(model, K, ngrams, 6, end, 0.0), tape, rows)
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


@EACH
def test_text_without_a_repetition_takes_plain_steps(make):
    """The draft model is given the very ids and positions that plain drafting gives it."""
    calls = {}
    for name, maker in (("levels", make), ("chain", lambda model: ModelDrafter(model, K))):
        tape = Tape("_" * 19 + "abcdefghijklmnopqrstuvwxyz")
        seen = calls[name] = []

        def extend(ids, starts, tape=tape, seen=seen):
            seen.append((ids.tolist(), list(starts)))
            return Tape.extend(tape, ids, starts)

        tape.extend = extend
        rows = rows_of(range(200, 220))
        started(maker, tape, rows).propose(rows, [K])
    assert calls["levels"] == calls["chain"]


@EACH
def test_an_accelerator_is_waited_for_only_where_there_is_hope(make, monkeypatch):
    """Where guesses were never right, drafted tokens are read together, as plain drafting reads
    them; where they were, or cost nothing, forward by forward."""
    ids, fresh = list(range(1000, 1400)), list(range(2000, 2400))
    for drafted, counts in ((fresh, [K - 1]), (fresh + ids[:50], [1] * (K - 1))):
        tape = Tape("_" * (len(ids) - 1) + "abcdefghijklmnopqrstuvwxyz")
        rows = rows_of(ids)
        drafter = started(make, tape, rows)
        for guesser in drafter._guessers.values():
            guesser._longest = 0  # so that all forwards are plain
            guesser.draft(drafted)
            guesser.take_back()
        read = []
        go_on = Levels._go_on
        monkeypatch.setattr(
            Levels,
            "_go_on",
            lambda self, count, found, read=read, go_on=go_on: (
                read.append(count),
                go_on(self, count, found),
            ),
        )
        monkeypatch.setattr("fly.drafting.uploads.HOST", "elsewhere")
        assert ragged(drafter.propose(rows, [K])) == [ids_of("abcdefghijkl")]
        assert read == ([1] * (K - 1) if guesser.is_free else counts)
        monkeypatch.undo()


@pytest.mark.parametrize("acceptance", ["native", "fly"])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", [{}, {"guess": "suffix"}, {"guess_cost": 0.0}], ids=str)
def test_texts_and_proposals_equal_the_chain_drafter_s(
    settings, temperature, batch_size, acceptance
):
    target = tiny("llama", eos_token_id=None)
    models = target, blurred(target)
    found = []
    for drafter, own in (("model", {}), ("multilevel", settings)):
        config = FLyConfig(
            drafter=drafter, drafter_settings=own, acceptance=acceptance, spd_k=7, win_len=2
        )
        decoder = SpeculativeDecoder(
            *models, tiny_tokenizer(), config, batch_size=batch_size, record_rounds=True
        )
        asked = [
            Request(tuple(ids) * 2, 30, temperature=temperature, seed=place)
            for place, ids in enumerate(prompts(7))
        ]
        results = dict(decoder.decode(asked))
        found.append([results[index] for index in range(len(asked))])
    for chain, levels in zip(*found, strict=True):
        assert (levels.token_ids, levels.origins) == (chain.token_ids, chain.origins)
        pairs = list(zip(levels.round_lens, chain.round_lens, strict=True))
        assert all(ours[0] <= theirs[0] for ours, theirs in pairs), "cut behind an end token"
        assert all(ours[1] == theirs[1] for ours, theirs in pairs[:-1])


def guesser_of(parts, **settings):
    """The drafter, and the guesser of a row."""
    drafter = MultilevelDrafter.from_config(FLyConfig(**settings).setup.drafter, parts)
    return drafter, drafter._index(rows_of([5]))[0]


def test_from_config():
    parts = DrafterContext(torch.device("cpu"), VOCAB, model=SlotModel(tiny("llama")))
    sizes = {"spd_k": 9, "max_ngram_size": 3, "num_ngram_pred_tokens": 2}
    drafter, guesser = guesser_of(parts, use_ngram=True, **sizes)
    assert (drafter.k, guesser._longest, guesser._cost) == (9, 2, GUESS_COST)
    assert isinstance(guesser.text, RecentText)
    assert len(guesser.text._places) == 3
    earliest = {"match": "earliest"}
    _, guesser = guesser_of(parts, drafter="multilevel", drafter_settings=earliest)
    assert isinstance(guesser.text, NgramText)
    chosen = {"guess": "suffix", "guess_cost": 0.0}
    _, guesser = guesser_of(parts, drafter="multilevel", drafter_settings=chosen)
    assert isinstance(guesser.text, SuffixText)
    assert guesser._cost == 0
    with pytest.raises(ConfigError, match="guess_cost"):
        FLyConfig(drafter="multilevel", drafter_settings={"guess_cost": -1.0})
