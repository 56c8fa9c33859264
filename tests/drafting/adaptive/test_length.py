"""Drafting as many tokens as pay: in virtual time against every fixed length, on drafts that are
good, bad, or both by turns; and text that never changes."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import Drafter, Proposal
from fly.drafting.adaptive.acceptance_rates import (
    NUM_BINS,
    UNKNOWN,
    AcceptanceRates,
    Growing,
    KeptTokens,
    best_further,
    bin_of,
)
from fly.drafting.adaptive.length import AdaptiveLength, DraftLength
from fly.drafting.draft_cache import DraftReader
from fly.engine import SpeculativeDecoder
from fly.engine.model.slots import SlotModel
from tests.crossing import mostly_slow
from tests.models import assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

K = 20
ROUND, STEP, PLAIN = 8.0, 2.0, 9.0  # virtual seconds: of a round, of a token more, of a plain one


class World:
    """A drafter whose tokens are kept as often as it says, and what its rounds take."""

    def __init__(self, confidences, seed=0):
        self.confidences = confidences  # (round, rng) -> confidence of the next token
        self.rng = random.Random(seed)
        self.now = 0.0
        self.round = 0
        self.row = SimpleNamespace(ids=[0], key="")
        self.offered = []
        self.is_even = False
        world = self

        class Source(Drafter):
            pace = None

            def propose(self, rows, limits, choose=None):
                world.offered = []
                for _ in range(limits[0]):
                    sure = world.confidences(world.round, world.rng)
                    world.offered.append(sure)
                    if self.pace and not self.pace.goes_on(torch.tensor([7]), torch.tensor([sure])):
                        break
                return Proposal.from_lists([[0] * len(world.offered)], torch.device("cpu"))

        self.source = Source()

    def rate(self, length, num_rounds, limit=K):
        """Tokens per virtual second."""
        tokens, begin = 0, self.now
        for _ in range(num_rounds):
            paced_proposal(length, self.source, [self.row], [limit])
            kept = 0
            for sure in self.offered:
                if self.rng.random() >= sure:
                    break
                kept += 1
            self.now += ROUND + STEP * len(self.offered) if self.offered else PLAIN
            length.observe([kept])
            self.row.ids = [0] * (len(self.row.ids) + kept + 1)
            length.commit([self.row])
            tokens += kept + 1
            self.round += 1
        return tokens / (self.now - begin)


def paced_proposal(length, drafter, rows, limits):
    """As the engine asks for it."""
    proposal = drafter.propose(rows, length.limits(rows, limits))
    length.proposed(proposal)
    return proposal


def paced(world, tail=0, **given):
    """A length that the world's drafter asks between its tokens."""
    world.source.pace = AdaptiveLength(K, tail, clock=lambda: world.now, is_asked=True, **given)
    return world.source.pace


def follow(length, rows, kept):
    """The rows' texts as they are behind the round."""
    length.observe(kept)
    for row, count in zip(rows, kept, strict=True):
        row.ids = [0] * (len(row.ids) + count + 1)
    length.commit(rows)


def best_fixed(confidences, num_rounds=700):
    """The fixed length whose rate is best, found in hindsight."""
    rates = []
    for limit in range(1, K + 1):
        world = World(confidences)
        rates.append(world.rate(DraftLength(), num_rounds, limit))
    return max(rates)


def even(sure):
    return lambda turn, rng: sure


def mixed(turn, rng):
    """Half of the rounds are easy from end to end, the others hopeless."""
    return 0.99 if turn % 2 else 0.3


def drawn(turn, rng):
    """Any confidence, mostly high."""
    return 1 - rng.random() ** 3


@pytest.mark.parametrize(
    ("confidences", "wanted"),
    [
        (even(0.5), 0.95),
        (mixed, 1.15),
        pytest.param(even(0.8), 0.97, marks=pytest.mark.slow),
        pytest.param(even(0.97), 0.97, marks=pytest.mark.slow),
        pytest.param(drawn, 1.03, marks=pytest.mark.slow),
    ],
    ids=["bad", "mixed", "middling", "good", "drawn"],
)
def test_against_the_best_fixed_length(confidences, wanted):
    world = World(confidences)
    length = paced(world)
    world.rate(length, 300)
    assert world.rate(length, 1500) > wanted * best_fixed(confidences)


def test_a_hopeless_draft_costs_next_to_nothing():
    world = World(even(0.02))
    rate = world.rate(paced(world), 3000)  # from the first round on
    assert rate > 0.95 / PLAIN


def test_speculates_again_when_it_pays_again():
    world = World(lambda turn, rng: 0.02 if turn < 1000 else 0.97)
    length = paced(world)
    world.rate(length, 1000)
    world.rate(length, 1000)
    assert world.rate(length, 1000) > 0.9 * best_fixed(even(0.97))
    report = length.report()
    assert report["probes"] >= 3
    assert report["rounds_by_draft_length"]["0"] > 800


def test_tasks_are_learned_apart():
    world = World(lambda turn, rng: 0.97 if world.row.key == "easy" else 0.05)
    length = paced(world)
    for turn in range(40):
        world.row.key = "easy" if turn % 2 else "hard"
        world.rate(length, 40)
    world.row.key = "easy"
    assert world.rate(length, 100) > 2 / PLAIN


def test_a_drafter_that_is_not_asked_in_between_gets_a_length():
    world = World(even(0.9))

    class Lookup(Drafter):
        def propose(self, rows, limits, choose=None):
            world.offered = [0.6] * limits[0]
            return Proposal.from_lists([[0] * limits[0]], torch.device("cpu"))

    world.source = Lookup()
    length = AdaptiveLength(K, 0, clock=lambda: world.now)
    world.rate(length, 600)
    lengths = {int(k): n for k, n in length.report()["rounds_by_draft_length"].items()}
    assert max(lengths, key=lengths.get) in (1, 2, 3)


def test_bins_are_finer_towards_certainty():
    values = [0.0, 0.1, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0]
    bins = [bin_of(value) for value in values]
    assert bins == sorted(bins)
    assert bins[0] == bins[1] == 0 < bins[2]
    assert bins[-1] == bins[-2] == NUM_BINS - 1


def learned(sure, tail=2, longest=12):
    """A task whose tokens were kept as often as that."""
    rng = random.Random(3)
    task = KeptTokens(tail, longest)
    for _ in range(60):
        bins = [rng.randrange(NUM_BINS) for _ in range(6)]
        refused = [place for place in range(6) if rng.random() > sure]
        task.note(bins, min(refused, default=6), 6)
        task.renew()
    return task


def expected(task, bins, tail=2):
    """Tokens that a proposal brings, from every probability that a token is the first refused."""
    first_last = max(0, len(bins) - tail)
    probabilities = [task.inner.of[place] for place in bins[:first_last]]
    probabilities += [task.last.of[place] for place in bins[first_last:]]
    return sum(math.prod(probabilities[: place + 1]) for place in range(len(probabilities)))


def grown(task, bins, limit=99):
    row = Growing(task, limit)
    for place in bins:
        row.note(place)
    return row


@pytest.mark.parametrize("tail", [0, 2, 9])
def test_gains_by_enumeration(tail):
    task = learned(0.8, tail)
    for length, gain in enumerate(task.ahead):
        assert gain == pytest.approx(expected(task, [UNKNOWN] * length, tail))
    bins = [3, 0, 7, 5]
    for length in range(len(bins) + 1):
        row = grown(task, bins[:length])
        assert row.if_ended() == pytest.approx(expected(task, bins[:length], tail))


def test_goes_on_as_far_as_is_worth_most():
    """Rows of two tasks; by enumeration of everything that could be drafted."""
    easy, hard = learned(0.9), learned(0.6)
    places = [[3, 0, 5], [0, 7, 0]]
    rows = [grown(easy, places[0]), grown(hard, places[1])]
    found = set()
    for price in [place / 20 for place in range(1, 40)]:
        worth = {
            further: sum(
                expected(row.task, bins + [UNKNOWN] * further)
                for row, bins in zip(rows, places, strict=True)
            )
            - price * further
            for further in [0, *range(2, 10)]
        }
        best = best_further(rows, 9, price)
        assert best == max(worth, key=worth.get)
        found.add(best)
    assert {0, 9} < found


def test_behind_an_end_token_nothing_is_worth_drafting():
    task = learned(0.99)
    ended = grown(task, [9, 9])
    ended.has_ended = True
    assert best_further([ended], 10, 0.01) == 0
    assert best_further([ended, grown(task, [9, 9])], 10, 0.01) == 10
    # The row that goes on pays for both.
    price = task.ahead[10] * grown(task, [9, 9]).alive[-1] / 10 * 1.01
    assert best_further([ended, grown(task, [9, 9])], 10, price) == 0


class Scripted(Drafter):
    """Drafts given tokens for every row, all of them surely."""

    def __init__(self, script):
        self.script, self.pace = script, None

    def propose(self, rows, limits, choose=None):
        drafted = 0
        while drafted < max(limits):
            tokens = torch.tensor([row[drafted] for row in self.script])
            drafted += 1
            if not self.pace.goes_on(tokens, torch.full((len(rows),), 0.9999)):
                break
        return Proposal.from_lists([row[:drafted] for row in self.script], torch.device("cpu"))


@pytest.mark.parametrize(("num_rows", "most"), [(1, 1), (7, 1), (8, 2), (32, 5)])
def test_the_more_rows_the_more_tokens_are_looked_at_together(num_rows, most, monkeypatch):
    """And all are learned from."""
    clock = SimpleNamespace(now=0.0)
    rows = [SimpleNamespace(ids=[0], key="") for _ in range(num_rows)]
    source = Scripted([[5] * K] * num_rows)
    pace = source.pace = AdaptiveLength(K, 2, {1}, clock=lambda: clock.now, is_asked=True)
    sizes = []
    read = AdaptiveLength._read

    def counted(self):
        sizes.append(len(self._now.unread))
        read(self)

    monkeypatch.setattr(AdaptiveLength, "_read", counted)
    for _ in range(10):
        proposal = paced_proposal(pace, source, rows, [K] * num_rows)
        (length,) = set(proposal.lengths.tolist())
        assert all(len(row.bins) == length for row in pace._now.rows)
        clock.now += 5.0 + 0.2 * length
        follow(pace, rows, [length] * num_rows)
    assert length == K
    assert max(sizes) == most


@pytest.mark.parametrize(("num_rows", "k"), [(32, 4), (8, 3), (32, 15), (1, 15)])
def test_drafting_is_timed_to_the_last_token_which_is_not_told(num_rows, k):
    """A forward takes a second; the chain drafter does not ask behind its last one."""
    clock = SimpleNamespace(now=0.0)

    class Slow(Scripted):
        def propose(self, rows, limits, choose=None):
            drafted = 0
            for drafted in range(1, max(limits) + 1):
                clock.now += 1
                tokens = torch.full((num_rows,), 5)
                if drafted == max(limits) or not self.pace.goes_on(tokens, torch.ones(num_rows)):
                    break
            return Proposal.from_lists([[5] * drafted] * num_rows, torch.device("cpu"))

    rows = [SimpleNamespace(ids=[0], key="") for _ in range(num_rows)]
    source = Slow([])
    pace = source.pace = AdaptiveLength(k, 2, clock=lambda: clock.now, is_asked=True)
    for _ in range(10):
        (length,) = set(paced_proposal(pace, source, rows, [k] * num_rows).lengths.tolist())
        assert not length or pace._now.drafting == length
        clock.now += 40.0
        follow(pace, rows, [length] * num_rows)
    assert length == k


def test_a_proposal_ends_with_the_last_rows_end_token():
    clock = SimpleNamespace(now=0.0)
    rows = [SimpleNamespace(ids=[0], key="") for _ in range(2)]
    source = Scripted([[5, 1, *[7] * K], [5] * 4 + [1] + [7] * K])
    pace = source.pace = AdaptiveLength(K, 0, {1}, clock=lambda: clock.now, is_asked=True)
    lengths = []
    for _ in range(40):
        longest = max(paced_proposal(pace, source, rows, [K, K]).lengths.tolist())
        clock.now += 5.0 + 0.2 * longest
        follow(pace, rows, [2, min(5, longest)])
        lengths.append(longest)
    assert set(lengths[10:]) == {5}
    # What follows the end token, refused here, tells nothing.
    (task,) = pace._kept.values()
    assert task.inner.seen == task.inner.kept


def test_a_token_before_the_end_token_is_an_inner_one_when_others_follow():
    task = learned(0.8, tail=3)
    row = grown(task, [0, 9])
    row.has_ended = True
    assert row.if_ended() == pytest.approx(expected(task, [0, 9], 3))
    for followers in (1, 2, 3, 4):
        row.note(9)
        probabilities = [task.inner.of[0] if followers >= 2 else task.last.of[0]]
        probabilities.append(task.inner.of[9] if followers >= 3 else task.last.of[9])
        assert row.if_ended() == pytest.approx(probabilities[0] * (1 + probabilities[1]))
    task.note([0, 9], 2, 6)
    assert (task.inner.seen[9], task.last.seen[9]) == pytest.approx(
        (learned(0.8, tail=3).inner.seen[9] + 1, learned(0.8, tail=3).last.seen[9])
    )


def test_a_row_near_its_budget_neither_pays_nor_gains():
    task = learned(0.95)
    spent = [grown(task, [9, 9], limit=2) for _ in range(7)]
    assert all(row.is_complete and not row.followers for row in spent)
    price = 3 * grown(task, [9, 9]).alive[-1]
    assert best_further([*spent, grown(task, [9, 9])], 9, price) == 0
    assert best_further([grown(task, [9, 9]) for _ in range(8)], 9, price) > 0


def test_lookups_that_find_nothing_are_given_up():
    """What is found is good, but one row in ten finds anything: drafting costs more than that."""
    rng, batch = random.Random(5), 8
    clock = SimpleNamespace(now=0.0)
    rows = [SimpleNamespace(ids=[0], key="") for _ in range(batch)]

    class Lookup(Drafter):
        def propose(self, rows, limits, choose=None):
            found = [rng.random() < 0.1 for _ in rows]
            lists = [[0] * min(5, limit) * hit for limit, hit in zip(limits, found, strict=True)]
            return Proposal.from_lists(lists, torch.device("cpu"))

    source, pace = Lookup(), AdaptiveLength(5, 0, clock=lambda: clock.now)
    for _ in range(600):
        lengths = paced_proposal(pace, source, rows, [K] * batch).lengths.tolist()
        clock.now += PLAIN * (2.0 if any(lengths) else 1.0) + 2.0 * (max(lengths) > 0) * batch
        follow(pace, rows, [round(0.75 * length) for length in lengths])
    rounds = pace.report()["rounds_by_draft_length"]
    assert pace.report()["probes"] >= 2
    assert rounds["0"] > 0.8 * sum(rounds.values())
    (task,) = pace._kept.values()
    assert task.found < 0.4


def test_a_draft_model_is_tried_on_one_row():
    """It has to read what it drafts for; a round of the batch takes as long for one row."""
    clock = SimpleNamespace(now=0.0)
    rows = [
        SimpleNamespace(ids=[0] * size, key=key) for size, key in ((9, "a"), (4, "b"), (6, "b"))
    ]
    pace = AdaptiveLength(K, 0, clock=lambda: clock.now, is_asked=True)
    tried = []
    for turn in range(300):
        limits = pace.limits(rows, [K, K if turn < 150 else 0, K])
        width = max(limits)
        if turn > 60 and width:
            tried.append(tuple(limits))
        asked = pace._kept["a"].asked
        tokens, sure = torch.full((3, 1), 7), torch.full((3, 1), 0.02)
        length = next((n for n in range(1, width + 1) if not pace.goes_on(tokens, sure)), width)
        kept = [min(limit, length) for limit in limits]
        pace.proposed(Proposal.from_lists([[7] * count for count in kept], torch.device("cpu")))
        clock.now += ROUND + STEP * length if width else PLAIN
        pace.observe([0, 0, 0])
        pace.commit(rows)
        # Of rows that draft nothing nothing is learned.
        assert (pace._kept["a"].asked > asked) == (limits[0] > 0) or turn < 60
    assert set(tried) == {(0, 4, 0), (0, 0, 4)}


def test_a_probe_is_long_enough_for_a_loosened_token():
    world = World(even(0.02))
    length = paced(world, tail=6)
    world.rate(length, 400)
    lengths = length.report()["rounds_by_draft_length"]
    assert lengths["10"] >= length.report()["probes"] > 2


def test_dear_probes_are_rare(monkeypatch):
    """Trying again costs no more than a fiftieth of what was waited."""
    monkeypatch.setitem(globals(), "ROUND", 20 * PLAIN)
    world = World(even(0.02))
    length = paced(world)
    world.rate(length, 30)  # it learns
    assert world.rate(length, 1500) > 0.97 / PLAIN
    assert length.report()["probes"] > 0


def test_what_a_draft_has_to_read_first_counts():
    """A text of thousands of tokens, whenever it was not read for a while."""
    world = World(even(0.02))
    length = paced(world)
    world.rate(length, 30)
    propose = world.source.propose

    def read_and_propose(rows, limits, choose=None):
        world.now += 20 * PLAIN * (limits[0] > 0)
        return propose(rows, limits, choose)

    world.source.propose = read_and_propose
    world.rate(length, 300)
    assert world.rate(length, 2000) > 0.97 / PLAIN
    assert length.report()["probes"] > 2


def test_a_slower_machine_does_not_make_drafting_pay(monkeypatch):
    """What was given up is slower now, too, though only plain rounds are seen to be."""
    world = World(even(0.08))
    length = paced(world)
    world.rate(length, 400)
    assert length.is_idle
    for name in ("ROUND", "STEP", "PLAIN"):
        monkeypatch.setitem(globals(), name, 1.5 * globals()[name])
    before = length.report()
    world.rate(length, 800)
    after = length.report()
    plain = after["rounds_by_draft_length"]["0"] - before["rounds_by_draft_length"]["0"]
    assert plain + after["probes"] - before["probes"] == 800


def test_near_the_most_the_few_that_are_left_are_thought_of():
    assert best_further([grown(learned(0.9), [9, 9, 9, 9])], 1, 0.01) == 1


def test_tokens_of_unknown_confidence_move_the_mean_alone():
    probabilities = AcceptanceRates()
    for _ in range(20):
        probabilities.note(UNKNOWN, False)
    probabilities.renew()
    assert probabilities.mean == probabilities.of[UNKNOWN] < 0.2
    assert set(probabilities.of) == {probabilities.mean}


def test_only_tokens_up_to_the_first_refusal_count():
    tokens = KeptTokens(tail=1, longest=6)
    tokens.note([1, 2, 3, 4], 1, 4)
    assert (tokens.inner.seen[1], tokens.inner.kept[1]) == (1, 1)
    assert (tokens.inner.seen[2], tokens.inner.kept[2]) == (1, 0)
    assert sum(tokens.inner.seen) == 2
    assert sum(tokens.last.seen) == 0
    tokens.note([1, 2, 3, 4], 4, 4)
    assert (tokens.last.seen[4], tokens.last.kept[4]) == (1, 1)


def test_nothing_known_is_hopeful():
    assert AcceptanceRates().mean == 0.9
    assert min(AcceptanceRates().of) > 0.85


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("drafter", ["model", "multilevel", "ngram"])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2"]))
def test_native_text_stays(kind, drafter, batch_size):
    target = tiny(kind)
    config = FLyConfig(drafter=drafter, acceptance="native", draft_length="adaptive", spd_k=8)
    draft = blurred(target) if config.setup.traits.needs_model else None
    decoder = SpeculativeDecoder(target, draft, tiny_tokenizer(), config, batch_size=batch_size)
    asked = prompts(12)
    for _ in range(2):  # what was learned from the first requests holds for the next
        results = decoder.generate([list(prompt) for prompt in asked], max_new_tokens=24)
        want = [generated(target, prompt, 24) for prompt in asked]
        assert_same(target, asked, [result.token_ids for result in results], want)
    lengths = decoder.report()["rounds_by_draft_length"]
    assert sum(lengths.values()) > 20


def test_a_random_draft_is_given_up_and_told(monkeypatch):
    target = tiny("llama")
    config = FLyConfig(acceptance="native", draft_length="adaptive")
    decoder = SpeculativeDecoder(target, tiny("llama", seed=9), tiny_tokenizer(), config)
    forwards = []
    extend = SlotModel.extend
    monkeypatch.setattr(SlotModel, "extend", lambda *given: (forwards.append(1), extend(*given))[1])
    decoder._engine.length.costs.clock = lambda: float(len(forwards))
    results = decoder.generate([list(prompt) for prompt in prompts(8)], max_new_tokens=60)
    plain = sum(result.statistics.plain for result in results)
    assert plain > 0.7 * sum(result.statistics.emitted for result in results)
    assert decoder.report()["rounds_by_draft_length"]["0"] > 30
    # Nor are prompts read for it.
    assert decoder._engine.length.is_idle
    read = []
    monkeypatch.setattr(DraftReader, "prefill", lambda *given: read.append(1))
    decoder.generate([list(prompt) for prompt in prompts(2)], max_new_tokens=2)
    assert not read


def test_what_may_not_draft_leaves_the_plan_alone():
    """A plain round that somebody else asked for; its time is learned from."""
    world = World(even(0.02))
    length = paced(world)
    world.rate(length, 60)
    costs = length.costs
    state = dict(vars(costs.probes))
    weight = costs.times._plain[1].weight
    world.rate(length, 1, limit=0)
    assert vars(costs.probes) == state
    assert costs.times._plain[1].weight > weight


@pytest.mark.parametrize("is_fixed", [True, False])
def test_rows_may_get_a_fixed_length(is_fixed):
    """As those that sample: a seed's text hangs on the lengths, and would on the clock."""
    world = World(even(0.5))
    fixed_for = {"fixed_for": lambda rows: rows == [world.row]} if is_fixed else {}
    length = paced(world, **fixed_for)
    world.rate(length, 30)
    assert (length.report()["rounds_by_draft_length"] == {str(K): 30}) is is_fixed


def test_a_length_that_is_left_open_is_paced():
    target = tiny("llama")
    for drafter, is_paced in (("suffix", True), ("self", True), ("model", False)):
        config = FLyConfig(drafter=drafter, acceptance="native", drafter_settings=OPEN[drafter])
        draft = blurred(target) if config.setup.traits.needs_model else None
        decoder = SpeculativeDecoder(target, draft, tiny_tokenizer(), config)
        assert ("rounds_by_draft_length" in decoder.report()) is is_paced


OPEN = {"suffix": {}, "self": {"left_out": [1]}, "model": {}}


def test_plain_decoding_is_timed_at_every_size_of_batch():
    """What pays with eight rows may not with four: there the target's forward is as dear with a
    drafted token as with eight rows, and without one much cheaper (SmolLM2 on a CPU)."""
    rng = random.Random(7)
    clock = SimpleNamespace(now=0.0)

    class Lookup(Drafter):
        def propose(self, rows, limits, choose=None):
            lists = [[0] * min(1, limit) for limit in limits]
            return Proposal.from_lists(lists, torch.device("cpu"))

    source, pace = Lookup(), AdaptiveLength(5, 0, clock=lambda: clock.now)
    plain = {8: 13.0, 4: 8.0}
    for count in (8, 4):
        rows = [SimpleNamespace(ids=[0], key="") for _ in range(count)]
        before = dict(pace.report()["rounds_by_draft_length"])
        for _ in range(100):
            lengths = paced_proposal(pace, source, rows, [K] * count).lengths.tolist()
            clock.now += 16.0 if any(lengths) else plain[count]
            follow(pace, rows, [length * (rng.random() < 0.5) for length in lengths])
        rounds = pace.report()["rounds_by_draft_length"]
        num_plain = rounds["0"] - before.get("0", 0)
        assert num_plain < 5 if count == 8 else num_plain > 80
