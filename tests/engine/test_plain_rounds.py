"""Plain rounds in between: when they come, what they are compared with, that text never changes,
and what is said where speculation was slower."""

from types import SimpleNamespace

import pytest

from fly.config import FLyConfig
from fly.drafting.adaptive.bandit import WARM_UP
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine import plain_rounds as module
from fly.engine.plain_rounds import EVERY, FEWEST_OTHERS, FEWEST_TIMED, PlainRounds, remark
from tests.models import assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

PLAIN, OTHER = 2.0, 3.0  # made-up seconds of a round


def rows_of(number, *, sampled=()):
    return [
        SimpleNamespace(ids=[0], statistics=Statistics(), is_sampled=row in sampled)
        for row in range(number)
    ]


def play(watch, rows, num_rounds, *, gain=2, limit=5, other=OTHER):
    """Rounds in which every row gains as much; the numbers of the plain ones."""
    plain = []
    for number in range(num_rounds):
        limits = watch.limits(rows, [limit] * len(rows))
        is_plain = not any(limits)
        assert is_plain or limits == [limit] * len(rows)
        for row in rows:
            row.ids = row.ids + [0] * (1 if is_plain else gain)
        watch.note(rows, PLAIN if is_plain else other)
        plain += [number] * is_plain
    return plain


def pooled(rows):
    return sum((row.statistics for row in rows), Statistics())


def test_every_hundredth_round_is_plain():
    rows = rows_of(2)
    assert play(PlainRounds(), rows, 3 * EVERY) == [EVERY - 1, 2 * EVERY - 1, 3 * EVERY - 1]


def test_the_first_one_is_not_counted():
    rows = rows_of(4)
    watch = PlainRounds()
    play(watch, rows, EVERY)
    assert pooled(rows) == Statistics()
    play(watch, rows, EVERY)
    assert pooled(rows).timed_rounds == pytest.approx(1)


def test_seconds_are_those_of_as_many_tokens():
    """Four rows gain two tokens each in three seconds: a second and a half for what a plain round
    brings in two."""
    rows = rows_of(4)
    play(PlainRounds(), rows, 4 * EVERY)
    counts = pooled(rows)
    assert counts.timed_rounds == pytest.approx(3)
    assert counts.timed_plain_s == pytest.approx(3 * PLAIN)
    assert counts.timed_usual_s == pytest.approx(3 * OTHER / 2)
    assert counts.by_plain == pytest.approx(4 / 3)
    for row in rows:  # in equal shares
        assert row.statistics.timed_rounds == pytest.approx(3 / 4)


def test_a_plain_round_is_compared_with_rounds_of_as_many_rows():
    watch, large, small = PlainRounds(), rows_of(8), rows_of(3)
    play(watch, large, EVERY)
    play(watch, large, EVERY - 10, other=100.0)
    play(watch, small, 10)
    assert pooled(large) == Statistics()
    assert pooled(small).by_plain == pytest.approx(4 / 3)


def test_too_few_rounds_of_as_many_rows_tell_nothing():
    watch, large, small = PlainRounds(), rows_of(8), rows_of(3)
    play(watch, large, EVERY)
    play(watch, large, EVERY - FEWEST_OTHERS)
    assert play(watch, small, FEWEST_OTHERS) == [FEWEST_OTHERS - 1]
    assert pooled(small) == Statistics()


def test_a_row_that_samples_is_waited_for():
    """Its draws hang on how many rounds it has had: a plain one would tell of the others."""
    watch, mixed, greedy = PlainRounds(), rows_of(3, sampled=[1]), rows_of(3)
    assert play(watch, mixed, 2 * EVERY) == []
    assert play(watch, greedy, 5) == [0]
    assert play(PlainRounds(spares_sampled=False), mixed, EVERY) == [EVERY - 1]


def test_a_round_that_failed_is_tried_again():
    watch, rows = PlainRounds(), rows_of(1)
    play(watch, rows, EVERY - 1)
    assert watch.limits(rows, [5]) == [0]
    assert watch.limits(rows, [5]) == [0]


def engine(name, batch_size=4, **settings):
    target = tiny("llama")
    config = FLyConfig(drafter=name, spd_k=3, **{"acceptance": "native", **settings})
    draft = blurred(target) if config.setup.traits.needs_model else None
    return SpeculativeDecoder(target, draft, tiny_tokenizer(), config, batch_size=batch_size)


DRAFTERS = ["model", "multilevel", "tree", "ngram", "suffix", "retrieval", "bandit", "self"]
FIXED = {"draft_length": "fixed"}
SETTINGS = {
    **{"ngram": FIXED, "suffix": FIXED},
    "self": FIXED | {"drafter_settings": {"left_out": [1]}},
}


@pytest.mark.parametrize("name", DRAFTERS)
def test_text_stays_and_rounds_are_counted(name, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 7)
    decoder = engine(name, **SETTINGS.get(name, {}))
    asked = prompts(8)
    results = decoder.generate([list(prompt) for prompt in asked], max_new_tokens=40)
    want = [generated(decoder._models.pair.source, prompt, 40) for prompt in asked]
    assert_same(decoder._models.pair.source, asked, [r.token_ids for r in results], want)
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.timed_rounds > 0.9
    assert counts.timed_plain_s > 0 < counts.timed_usual_s
    assert counts.plain > 0


@pytest.mark.parametrize("name", ["model", "tree", "retrieval", "suffix"])
def test_nothing_is_drafted_in_a_plain_round(name, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 3)
    decoder = engine(name)
    propose, seen = decoder.drafter.propose, []

    def watched(rows, limits, choose):
        proposal = propose(rows, limits, choose)
        if not any(limits) and any(row.remaining > 1 for row in rows):
            seen.append((proposal.ids.shape[1], proposal.draft_forwards))
        return proposal

    decoder.drafter.propose = watched
    decoder.generate([list(prompt) for prompt in prompts(4)], max_new_tokens=20)
    assert set(seen) == {(0, 0)}


def test_a_bandit_does_not_learn_of_rounds_that_nobody_chose(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 2)
    monkeypatch.setattr(module, "FEWEST_OTHERS", 1)
    decoder = engine("bandit", drafter_settings={"arms": [{"drafter": "suffix", "k": 3}]})
    propose, chosen = decoder.drafter.propose, []

    def watched(rows, limits, choose):
        chosen.append(any(limits))
        return propose(rows, limits, choose)

    decoder.drafter.propose = watched
    results = decoder.generate([list(prompt) for prompt in prompts(4)], max_new_tokens=40)
    assert sum(result.statistics.timed_rounds for result in results) > 0.9
    situations = decoder.drafter.report()["bandit"]["situations"].values()
    pulls = sum(arm["pulls"] for found in situations for arm in found["arms"].values())
    assert pulls == sum(chosen) - WARM_UP
    assert len(chosen) > 1.5 * sum(chosen)


@pytest.mark.parametrize(
    "settings",
    [{"acceptance": "fly", "win_len": 2}, {"use_sd": False}, {"enable_statistics": True}],
    ids=str,
)
def test_loose_plain_and_counted_decoding_are_left_alone(settings, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 2)
    name = "model" if settings.get("use_sd", True) else None
    decoder = engine(name, **settings)
    results = decoder.generate([list(prompt) for prompt in prompts(4)], max_new_tokens=20)
    assert sum(result.statistics.timed_rounds for result in results) == 0


@pytest.mark.parametrize("name", ["model", "ngram", "self"])
def test_a_seed_decides_whatever_the_batch_and_its_plain_rounds(name, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 3)
    asked = [
        Request(ids, 24, temperature=1.5 * (i % 3 > 0), seed=i, generation={"top_k": 20})
        for i, ids in enumerate(prompts(9))
    ]
    own = {"drafter_settings": {"left_out": [1]}} if name == "self" else {}
    answers = []
    for batch_size in (1, 4, 9):
        found = dict(engine(name, batch_size, **own).decode(asked))
        answers.append([found[i].token_ids for i in range(len(asked))])
    assert answers[0] == answers[1] == answers[2]


# --- what is said of it


def timed(rounds, speed):
    return Statistics(timed_rounds=rounds, timed_plain_s=speed * rounds, timed_usual_s=rounds)


def said(rounds=12, speed=0.7, batch_size=8, **settings):
    config = FLyConfig(**{"acceptance": "native", **settings})
    return remark(timed(rounds, speed), config.setup, batch_size)


def test_slower_is_said_with_what_to_change():
    assert said() == (
        "speculation was slower than plain decoding here (0.70 times its speed, 12 plain rounds "
        "timed): use a smaller spd_k, draft_length=adaptive, a smaller batch, or use_sd=false"
    )


@pytest.mark.parametrize(
    ("rounds", "speed", "is_said"),
    [
        (FEWEST_TIMED - 1, 0.1, False),
        (FEWEST_TIMED, 0.8, True),
        (FEWEST_TIMED, 0.9, False),
        (2.9999999, 0.8, True),  # shares add up to almost a whole
        (100, 0.96, True),
        (100, 0.98, False),
        (100, 1.4, False),
        (0, 1.0, False),
    ],
)
def test_slower_is_said_where_it_is_clear(rounds, speed, is_said):
    assert (said(rounds, speed) is not None) is is_said


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"batch_size": 1}, "use a smaller spd_k, draft_length=adaptive, or use_sd=false"),
        ({"draft_length": "adaptive"}, "use a smaller spd_k, a smaller batch, or use_sd=false"),
        ({"drafter": "suffix"}, "use a smaller spd_k, a smaller batch, or use_sd=false"),
        ({"drafter": "tree"}, "use a smaller spd_k, a smaller batch, or use_sd=false"),
        ({"drafter": "bandit"}, "use other arms, a smaller batch, or use_sd=false"),
    ],
)
def test_what_is_named_can_be_changed(settings, advice):
    assert said(**settings).endswith(f"timed): {advice}")
