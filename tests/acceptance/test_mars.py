"""MARS: the second of the raw logits, by its ratio to a first that is above 0."""

import torch

from fly.acceptance import Scores
from fly.acceptance.mars import MarsRule
from tests.acceptance.tables import Case, assert_guarded, assert_table


def case(row, ids, count, **settings):
    rows = row if isinstance(row[0], list) else [row]
    return Case([[0.25] * 4], ids, count, logits=rows, settings=settings)


CASES = {
    "nearly the first": case([8.0, 7.5, 1.0, 0.0], [1], 1),
    "too far": case([8.0, 7.0, 1.0, 0.0], [1], 0),
    "equality is refused": case([8.0, 6.0, 1.0, 0.0], [1], 0, threshold=0.75),
    "just above": case([8.0, 6.001, 1.0, 0.0], [1], 1, threshold=0.75),
    "near, but third": case([8.0, 7.9, 7.8, 0.0], [2], 0),
    "equal to the second": case([8.0, 7.9, 7.9, 0.0], [2], 1),
    "equal to the first": case([8.0, 8.0, 7.9, 0.0], [1], 1),
    "below 0 the ratio says nothing": case([-8.0, -8.5, -99.0, -99.0], [1], 0),
    "nor at 0": case([0.0, -0.5, -99.0, -99.0], [1], 0),
    "the first above 0, the second not": case([0.1, -0.1, -9.0, -9.0], [1], 0),
    "threshold 1 loosens nothing": case([8.0, 8.0, 1.0, 0.0], [1], 0, threshold=1.0),
    "a match": case([-8.0, -9.0, -10.0, -11.0], [0, 0], 2),
    "cut at the first": case([[8.0, 7.9, 1.0, 0.0], [8.0, 1.0, 1.0, 0.0]], [1, 1, 1], 1),
    "nothing proposed": case([8.0, 7.5, 1.0, 0.0], [], 0),
}


def test_decisions():
    assert_table(MarsRule, CASES)


def test_it_reads_raw_logits():
    raw = torch.tensor([[[8.0, 7.5, 1.0, 0.0]] * 2])
    scores = Scores(raw, torch.tensor([[1]]), torch.tensor([1]), processed=raw / 10 - 5)
    assert MarsRule().accept(scores).loose.tolist() == [[True]]


def test_guards():
    assert_guarded(MarsRule(), case([8.0, 7.5, 1.0, 0.0], [1], 1))


def test_settings():
    assert (MarsRule().threshold, MarsRule().required_followers) == (0.9, 1)
    assert [MarsRule(threshold=value).is_lossless for value in (1.0, 0.9)] == [True, False]
