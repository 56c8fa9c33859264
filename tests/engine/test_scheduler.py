"""Rows in use come first, whoever finishes; nobody is lost or decoded twice."""

import random

from fly.engine.batch import Row, Scheduler, queue_order
from fly.engine.request import Request


def row_of(index, ids):
    return Row(index, Request(tuple(ids), 5), 5)


def rows_of(*lengths):
    """Prompts that have nothing in common."""
    return [row_of(i, range(100 * i, 100 * i + n)) for i, n in enumerate(lengths)]


def indices(scheduler):
    return [row.index for row in scheduler.rows]


def test_longest_prompts_first_and_ties_in_order():
    scheduler = Scheduler(rows_of(2, 9, 5, 9, 1))
    assert scheduler.admit(3) == 0
    assert indices(scheduler) == [1, 3, 2]
    assert scheduler.num_waiting == 2


def test_prompts_that_begin_alike_stay_together():
    shots = list(range(20))
    texts = [[7] * 25, [*shots, 1], [5] * 22, [*shots, 3, 4, 5, 6], [*shots, 2, 9], [7] * 24]
    order = [row.index for row in queue_order(row_of(i, ids) for i, ids in enumerate(texts))]
    assert order == [0, 5, 3, 4, 1, 2]


def test_requeued_rows_come_first_and_keep_their_answers():
    scheduler = Scheduler(rows_of(5, 4, 3, 2))
    scheduler.admit(3)
    scheduler.rows[1].ids.append(77)
    scheduler.requeue()
    assert (scheduler.rows, scheduler.num_waiting) == ([], 4)
    scheduler.admit(2)
    assert indices(scheduler) == [0, 1]
    assert scheduler.rows[1].answer == [77]


def test_admits_into_free_places_only():
    scheduler = Scheduler(rows_of(5, 4, 3))
    assert (scheduler.admit(2), indices(scheduler)) == (0, [0, 1])
    assert (scheduler.admit(2), indices(scheduler)) == (2, [0, 1])
    scheduler.rows[1].finish_reason = "eos"
    scheduler.retire()
    assert (scheduler.admit(2), indices(scheduler)) == (1, [0, 2])
    assert scheduler.admit(2) == 2
    assert scheduler.admit(1) == 2, "a smaller batch takes nothing away"


def test_the_last_rows_fill_the_gaps():
    scheduler = Scheduler(rows_of(9, 8, 7, 6, 5))
    scheduler.admit(5)
    for index in (0, 2, 4):
        scheduler.rows[index].finish_reason = "length"
    finished, moves = scheduler.retire()
    assert [row.index for row in finished] == [0, 2, 4]
    assert moves == [(3, 0)]
    assert indices(scheduler) == [3, 1]


def test_nothing_finished_moves_nothing():
    scheduler = Scheduler(rows_of(3, 2))
    scheduler.admit(5)
    assert scheduler.retire() == ([], [])


def test_all_finished():
    scheduler = Scheduler(rows_of(3, 2))
    scheduler.admit(5)
    for row in scheduler.rows:
        row.finish_reason = "eos"
    finished, moves = scheduler.retire()
    assert (len(finished), moves, scheduler.rows) == (2, [], [])
    assert not scheduler.has_work


def test_empty_queue():
    scheduler = Scheduler([])
    assert not scheduler.has_work
    assert scheduler.admit(4) == 0


def test_random_lives():
    """A list of slots that follows the moves always holds the scheduler's rows."""
    for seed in range(50):
        fate = random.Random(seed)
        rows = rows_of(*(fate.randrange(1, 9) for _ in range(fate.randrange(12))))
        batch_size = fate.randrange(1, 6)
        scheduler, slots, done = Scheduler(rows), [None] * batch_size, []
        while scheduler.has_work:
            first = scheduler.admit(batch_size)
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
