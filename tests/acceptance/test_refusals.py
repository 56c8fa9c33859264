"""Behind a row's first refusal nothing is looked at unless somebody asks, and what is decided
before it stays the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fly.acceptance import RejectionSampling, Scores, fused, leading_true, rules, tables
from fly.acceptance.fly import FlyRule
from fly.acceptance.refusals import up_to_first
from fly.acceptance.rejection import SoftLines
from tests.acceptance.rescoring import config_of, temperature_of
from tests.acceptance.test_tables import CASES, flat, padded
from tests.models import toy_scores

pytestmark = pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # K may be below W
# Draft against target, unsure places, and where FLy with W = 3 looks at the entropy.
LOOKS = {
    "all match": ("abcdefgh", "abcdefgh", [], []),
    "one that can be kept": ("Abcdefgh", "abcdefgh", [0], [0]),
    "its refusal's reason": ("aBCdefgh", "abcdefgh", [1, 2], [1]),  # the window's, or the gate's
    "another after a kept one": ("AbcdEfgh", "abcdefgh", [0, 4], [0, 4]),
    # One line more than it must be: the gates of a row are looked at together.
    "another after a sure one": ("AbcdEfgh", "abcdefgh", [4], [0, 4]),
    "behind what the window refuses": ("ABcdEfgh", "abcdefgh", [0, 1, 4], [0]),
    "behind what is protected": ("XbcdEfgh", "abcdefgh", [0, 4], []),
    "up to what is protected": ("AbcdXfgh", "abcdefgh", [0], [0]),
    "behind the boundary": ("abcdeFgH", "abcdefgh", [5, 7], [5]),
}


def looked_at(monkeypatch, scores, rule):
    """Places whose lines were reduced."""
    seen = []

    def spy(piece, **options):
        seen.extend(piece.flatten(0, -2))
        return twin(piece, **options)

    twin = fused.summary_of
    monkeypatch.setattr(fused, "summary_of", spy)
    decision = rule.accept(scores)
    lines = scores.logits[0]
    return decision, [i for i, line in enumerate(lines) if any(line.equal(one) for one in seen)]


@pytest.mark.parametrize("case", LOOKS.values(), ids=LOOKS)
def test_entropies_only_where_they_can_matter(monkeypatch, case):
    draft, target, unsure, places = case
    scores = toy_scores((draft, target, dict.fromkeys(unsure, 0.5)), protected="X")
    scores.is_complete = False
    decision, seen = looked_at(monkeypatch, scores, FlyRule(window=3))
    assert seen == places
    whole = FlyRule(window=3).accept(
        toy_scores((draft, target, dict.fromkeys(unsure, 0.5)), protected="X")
    )
    end = int(leading_true(whole.accepted)) + 1
    assert decision.reason[0, :end].tolist() == whole.reason[0, :end].tolist()


def test_whole_proposals_where_somebody_asks(monkeypatch):
    """Every mismatch that is not protected, and no match."""
    scores = toy_scores(("ABcdEXgh", "abcdefgh", {0: 0.5, 1: 0.5, 4: 0.5}), protected="X")
    _, seen = looked_at(monkeypatch, scores, FlyRule(window=3))
    assert seen == [0, 1, 4]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{n}-{s}" for n, s in CASES])
def test_every_rule_decides_alike_up_to_the_first_refusal(name, settings):
    where = rules.get(name).temperatures
    rule = config_of(name, temperature=temperature_of(name), **settings).setup.rule
    for is_sampled in (False, True):
        if where == ("greedy" if is_sampled else "sampled"):
            continue
        scores, made = padded(is_sampled, has_processors=is_sampled)
        for part in (padded(is_sampled, has_processors=is_sampled)[0], flat(made, has_last=True)):
            whole = rule.accept(scores)
            part.is_complete = False
            found = rule.accept(part)
            kept = leading_true(whole.accepted)
            assert leading_true(found.accepted).tolist() == kept.tolist()
            reached = (torch.arange(part.ids.shape[1]) <= kept[:, None]) & part.in_proposal
            for field in ("reason", "loose", "accepted"):
                assert torch.equal(getattr(found, field)[reached], getattr(whole, field)[reached])
            own = [
                each.choice_at(kept, each_decision.weight)
                for each, each_decision in ((scores, whole), (part, found))
            ]
            assert torch.equal(*own)


def test_shorter_proposals_in_the_same_table():
    """As a sweep judges them: each looks at its own places, and lines are reduced once."""
    scores, made = padded(False, has_processors=False)
    rule = FlyRule(window=1)
    for k in (2, 5, 3):
        alone = Scores(made["raw"][:, : k + 1], made["ids"][:, :k], scores.lengths.clamp_max(k))
        view = scores.view(
            scores.layout.first(k), alone.ids, alone.lengths, drawn=scores.choice[:, : k + 1]
        )
        for field in ("reason", "windowed"):
            assert torch.equal(
                getattr(rule.accept(view), field), getattr(rule.accept(alone), field)
            )


class LargestStorage(TorchDispatchMode):
    """The largest storage that any operation returns, but for those that were there."""

    def __init__(self, *known):
        super().__init__()
        self._known = {table.untyped_storage().data_ptr() for table in known}
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self.num_bytes = max(self.num_bytes, storage.nbytes())
        return result


NO_TABLE = ("native", "fly", "margin", "typical", "lenience", "mars", "cascade", "relaxed_top_n")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", NO_TABLE)
def test_nothing_of_the_tables_size_is_written(monkeypatch, name, is_sampled, dtype):
    """At most 4 lines at a time, in the two numbers of float64 that a draw's sums take."""
    vocab, rows, k = 6000, 4, 7
    monkeypatch.setattr(tables, "LARGEST_ON_CPU", 4 * vocab)
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(rows, k + 1, vocab, generator=generator).to(dtype)
    ids = logits[:, :-1].argmax(-1)
    ids[:, ::3] = 7
    q = torch.rand(rows, k, vocab, generator=generator)
    final, law = None, None
    if is_sampled:
        final = logits.float()
        draws = torch.rand(rows, k + 1, 2, generator=generator, dtype=torch.float64)
        law = RejectionSampling(SoftLines(final, None), q, draws, torch.ones(rows).bool())
    protected = torch.arange(vocab) == 3
    scores = Scores(logits, ids, torch.full((rows,), k), protected, final, law, q)
    rule = config_of(name, temperature=temperature_of(name)).setup.rule
    with LargestStorage(logits, q, *([] if final is None else [final])) as largest:
        scores.is_complete = False
        decision = rule.accept(scores)
        scores.choice_at(leading_true(decision.accepted), decision.weight)
        assert scores.is_finite.all()
    assert 0 < largest.num_bytes <= 4 * vocab * 8


def test_up_to_first():
    mask = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert up_to_first(mask).long().tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1] * 5]
