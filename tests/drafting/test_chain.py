"""Chain drafting proposes the draft's own greedy text, in ragged batches and over many rounds."""

import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext, Proposal, StopInfo
from fly.drafting.base import greedy as greedy_choice
from fly.drafting.base import pad_right
from fly.drafting.chain import ModelDrafter
from fly.drafting.draft_cache import within_context
from fly.drafting.guesses import NgramText, RecentText, SuffixText
from fly.drafting.multilevel import MultilevelDrafter
from fly.engine import SpeculativeDecoder
from fly.engine.model.base import CausalModel
from fly.engine.model.slots import SlotModel
from tests.models import CONTEXT, VOCAB, generated, greedy, prompts, tiny, tiny_tokenizer

K = 5
KINDS = ("llama", "gemma2", "gpt2")
DRAFTERS = {
    "model": lambda model: ModelDrafter(model, K),
    "multilevel": lambda model: MultilevelDrafter(model, K, lambda: RecentText(3), 4, StopInfo()),
    "multilevel, suffix": lambda model: MultilevelDrafter(
        model, K, SuffixText, 4, StopInfo(), 0.05
    ),
    "multilevel, free": lambda model: MultilevelDrafter(
        model, K, lambda: NgramText(3), 4, StopInfo(), 0.0
    ),
}


NUMBERS = itertools.count()


def rows_of(*texts):
    return [SimpleNamespace(ids=list(text), index=next(NUMBERS), key="") for text in texts]


def leave(drafter, rows, gone):
    """A request ends; the last row takes its place."""
    drafter.forget(rows[gone].index)
    rows[gone] = rows[-1]
    del rows[-1]


def ragged(proposal):
    """A proposal's tokens without its padding."""
    assert proposal.ids.dtype == proposal.lengths.dtype == torch.int64
    assert proposal.ids.shape[0] == len(proposal.lengths)
    pairs = zip(proposal.ids.tolist(), proposal.lengths.tolist(), strict=True)
    return [ids[:n] for ids, n in pairs]


def started(make, model, rows, common_vocab=None):
    """A drafter that has read the rows' prompts."""
    drafter = make(model if isinstance(model, CausalModel) else SlotModel(model, common_vocab))
    drafter.prefill(rows)
    return drafter


@torch.inference_mode()
def play(make, model, num_rows, num_rounds, seed=0):
    """Rounds of random fate: proposals kept in part or whole, rows that leave, move and come in.

    Yields (ids, limit, tokens proposed) of every row and round.
    """
    fate = random.Random(seed)
    texts = list(prompts(num_rows + num_rounds, 20, seed))
    rows = rows_of(*(texts.pop() for _ in range(num_rows)))
    drafter = started(make, model, rows)
    for _ in range(num_rounds):
        limits = [fate.choice((K, K, K, 2, 1)) for _ in rows]
        offered = ragged(drafter.propose(rows, limits))
        for row, limit, tokens in zip(rows, limits, offered, strict=True):
            yield list(row.ids), limit, tokens
            kept = fate.choice((0, len(tokens), fate.randint(0, len(tokens))))
            row.ids += [*tokens[:kept], fate.randrange(4, VOCAB)]
        drafter.commit(rows)
        if fate.random() < 0.5:  # one row leaves; the last one takes its place
            leave(drafter, rows, fate.randrange(len(rows)))
        if not rows or fate.random() < 0.6:
            rows += rows_of(texts.pop())
            drafter.prefill(rows)


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
def test_proposes_the_drafts_greedy_text(make, kind, num_rows):
    model = tiny(kind, seed=1)
    for ids, limit, tokens in play(make, model, num_rows, 12):
        assert tokens == greedy(model, ids, min(K, limit))


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
def test_equals_generate(make):
    model = tiny("llama", seed=1, eos_token_id=None)
    rows = rows_of(*prompts(5))
    offered = ragged(started(make, model, rows).propose(rows, [K] * 5))
    assert offered == [generated(model, prompt, K) for prompt in prompts(5)]


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
def test_short_prompts(make, length):
    model = tiny("llama", seed=1)
    rows = rows_of([7, 8, 9][:length], [5], range(4, 30))
    offered = ragged(started(make, model, rows).propose(rows, [K] * 3))
    assert offered == [greedy(model, row.ids, K) for row in rows]


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("limits", [[0, 0, 0], [0, 3, 9], [1, 0, 1], [9, 9, 0]])
def test_limits(make, limits):
    model = tiny("llama", seed=1)
    rows = rows_of(*prompts(3))
    offered = ragged(started(make, model, rows).propose(rows, limits))
    wanted = zip(rows, limits, strict=True)
    assert offered == [greedy(model, row.ids, min(K, limit)) for row, limit in wanted]


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_draft_of_short_context(make, kind):
    """Drafting ends where the draft's positions end, and longer prompts are never drafted for."""
    model = tiny(kind, seed=1, max_position_embeddings=24)
    long = list(range(4, 40))
    rows = rows_of(long[:20], long[:30], long[:8], long[:23], long[:24])
    drafter = started(make, model, rows)
    for expected in ([4, 0, 5, 1, 0], [3, 0, 5, 0, 0], [2, 0, 5, 0, 0], [1, 0, 5, 0, 0]):
        offered = ragged(drafter.propose(rows, [K] * 5))
        assert [len(tokens) for tokens in offered] == expected
        for row, tokens in zip(rows, offered, strict=True):
            assert tokens == greedy(model, row.ids, len(tokens))
            row.ids.append(50)
        drafter.commit(rows)


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS)
def test_draft_vocabularies_of_other_sizes(make):
    """Only ids that both models know are proposed; others in a prompt break nothing."""
    rows = rows_of(*prompts(3))
    larger = started(make, tiny("llama", seed=1, vocab_size=VOCAB + 40), rows, VOCAB)
    assert all(token < VOCAB for ids in ragged(larger.propose(rows, [K] * 3)) for token in ids)
    smaller = started(make, tiny("llama", seed=1, vocab_size=VOCAB - 40), rows, VOCAB)
    offered = ragged(smaller.propose(rows, [K] * 3))
    assert all(token < VOCAB - 40 for ids in offered for token in ids)
    assert [len(ids) for ids in offered] == [K] * 3


def test_counts_its_forwards():
    rows = rows_of(*prompts(3))
    drafter = started(DRAFTERS["model"], tiny("llama", seed=1), rows)
    assert drafter.propose(rows, [9, 2, 0]).draft_forwards == K
    assert drafter.propose(rows, [0, 2, 0]).draft_forwards == 2
    assert drafter.propose(rows, [0, 0, 0]).draft_forwards == 0


def test_within_context():
    model = SimpleNamespace(num_positions=10)
    rows = rows_of(range(4), range(9), range(10), range(11))
    assert within_context(model, rows, [9, 9, 9, 9], 5) == [5, 1, 0, 0]
    assert within_context(model, rows, [2, 0, 1, 1], 5) == [2, 0, 0, 0]
    assert within_context(SimpleNamespace(num_positions=None), rows, [9, 2, 0, 9], 5) == [
        5,
        2,
        0,
        5,
    ]


def test_pad_right():
    padded = pad_right([[1], [2, 3, 4], [5, 6]], torch.device("cpu"))
    assert padded.tolist() == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]


def test_from_config():
    model = SlotModel(tiny("llama"))
    parts = DrafterContext(torch.device("cpu"), VOCAB, model=model)
    drafter = ModelDrafter.from_config(FLyConfig(spd_k=9).setup.drafter, parts)
    assert (drafter.k, drafter.model) == (9, model)
    assert model.num_positions == CONTEXT


@pytest.mark.parametrize(
    ("draft_forwards", "gains", "took"),
    [
        (0, None, [0, 0, 0, 0, 0]),
        (4, None, [0, 1, 2, 3, 4]),
        (3, [[2, 1, 4]], [0, 1, 1, 2, 3]),
        (3, [[1, 1, 1]], [0, 1, 2, 3, 3]),
        (0, [[]], [0, 0, 0, 0, 0]),
    ],
)
def test_forwards_that_the_first_tokens_took(draft_forwards, gains, took):
    found = Proposal.from_lists([[5] * 4], torch.device("cpu"))
    found = replace(found, draft_forwards=draft_forwards, gains=gains)
    assert [found.forwards_for(0, length) for length in range(5)] == took


class AtOnce(SlotModel):
    """Runs several greedy steps as one, as a captured model does, and notes their numbers."""

    steps_at_once = 3

    def __init__(self, model):
        super().__init__(model)
        self.counts, self.others = [], 0

    def steps(self, ids, counts, starts, count, choose=greedy_choice, *rest, **options):
        self.counts.append(count)
        self.others += choose is not greedy_choice
        return super().steps(ids, counts, starts, count, choose, *rest, **options)


@pytest.mark.parametrize(
    ("wanted", "counts", "drafted"),
    [
        (None, [8], 8),  # without a pace all steps are one call
        ([1, 0], [3, 3], 6),  # no length ends among steps that run as one
        ([4, 0], [3, 4], 7),
        ([5], [3, 5], 8),  # after the last possible token nobody is asked
        ([99], [3, 5], 8),
    ],
)
def test_steps_between_two_looks_run_as_one_call(wanted, counts, drafted):
    model = tiny("llama", seed=1)
    rows, asked = rows_of(*prompts(3)), []

    class Told:
        def goes_on(self, tokens, confidence):
            asked.append((tuple(tokens.shape), tuple(confidence.shape)))
            return wanted[len(asked) - 1]

    slots = AtOnce(model)
    drafter = ModelDrafter(slots, 8, pace=None if wanted is None else Told())
    drafter.prefill(rows)
    with torch.inference_mode():
        proposal = drafter.propose(rows, [8, 2, 8])
    assert slots.counts == counts
    assert slots.others == 0
    assert proposal.draft_forwards == drafted
    assert [shape for shape, _ in asked] == [(3, count) for count in counts[: len(asked)]]
    assert ragged(proposal) == [
        greedy(model, row.ids, min(drafted, limit))
        for row, limit in zip(rows, [8, 2, 8], strict=True)
    ]
    assert proposal.known_lengths == proposal.lengths.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_greedy_batch_is_known_to_the_model(temperature):
    """Only where something is drawn does the sampler choose."""
    target = tiny("llama", eos_token_id=None)
    draft = AtOnce(target)
    config = FLyConfig(acceptance="native", spd_k=5, draft_length="fixed")
    decoder = SpeculativeDecoder(SlotModel(target), draft, tiny_tokenizer(), config)
    decoder.generate(prompts(2), max_new_tokens=12, temperature=temperature)
    assert draft.counts
    assert draft.others == (len(draft.counts) if temperature else 0)
