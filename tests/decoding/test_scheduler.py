"""Rows in use come first, whoever finishes; nobody is lost or decoded twice."""

import random

from fly.decoding.rows import Request, Row
from fly.decoding.scheduler import Scheduler


def rows_of(*lengths):
    return [Row(i, Request(tuple(range(n)), 5), 5) for i, n in enumerate(lengths)]


def indices(scheduler):
    return [row.index for row in scheduler.rows]


def test_longest_prompts_first_and_ties_in_order():
    scheduler = Scheduler(rows_of(2, 9, 5, 9, 1), 3)
    assert scheduler.admit() == 0
    assert indices(scheduler) == [1, 3, 2]


def test_admits_into_free_places_only():
    scheduler = Scheduler(rows_of(5, 4, 3), 2)
    assert (scheduler.admit(), indices(scheduler)) == (0, [0, 1])
    assert (scheduler.admit(), indices(scheduler)) == (2, [0, 1])
    scheduler.rows[1].finish_reason = "eos"
    scheduler.retire()
    assert (scheduler.admit(), indices(scheduler)) == (1, [0, 2])
    assert scheduler.admit() == 2


def test_the_last_rows_fill_the_gaps():
    scheduler = Scheduler(rows_of(9, 8, 7, 6, 5), 5)
    scheduler.admit()
    for index in (0, 2, 4):
        scheduler.rows[index].finish_reason = "length"
    finished, moves = scheduler.retire()
    assert [row.index for row in finished] == [0, 2, 4]
    assert moves == [(3, 0)]
    assert indices(scheduler) == [3, 1]


def test_nothing_finished_moves_nothing():
    scheduler = Scheduler(rows_of(3, 2), 2)
    scheduler.admit()
    assert scheduler.retire() == ([], [])


def test_all_finished():
    scheduler = Scheduler(rows_of(3, 2), 2)
    scheduler.admit()
    for row in scheduler.rows:
        row.finish_reason = "eos"
    finished, moves = scheduler.retire()
    assert (len(finished), moves, scheduler.rows) == (2, [], [])
    assert not scheduler.has_work


def test_empty_queue():
    scheduler = Scheduler([], 4)
    assert not scheduler.has_work
    assert scheduler.admit() == 0


def test_random_lives():
    """A list of slots that follows the moves always holds the scheduler's rows."""
    for seed in range(50):
        fate = random.Random(seed)
        rows = rows_of(*(fate.randrange(1, 9) for _ in range(fate.randrange(12))))
        batch_size = fate.randrange(1, 6)
        scheduler, slots, done = Scheduler(rows, batch_size), [None] * batch_size, []
        while scheduler.has_work:
            first = scheduler.admit()
            assert len(scheduler.rows) <= batch_size
            slots[first : len(scheduler.rows)] = indices(scheduler)[first:]
            for row in scheduler.rows:
                row.finish_reason = fate.choice((None, None, "eos"))
            finished, moves = scheduler.retire()
            for source, destination in moves:
                assert source >= len(scheduler.rows) > destination
                slots[destination] = slots[source]
            assert slots[: len(scheduler.rows)] == indices(scheduler)
            assert all(row.finish_reason is None for row in scheduler.rows)
            done += [row.index for row in finished]
        assert sorted(done) == list(range(len(rows)))
