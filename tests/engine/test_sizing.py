"""The search for a batch size goes where rows advance faster, and only there."""

import pytest

from fly.engine.admission import FIRST_ROWS, TRIAL_ROUNDS, BatchSize
from fly.errors import ConfigError


def run(size, seconds_of, num_requests=1000, rounds=100, waiting=lambda turn: 900):
    """Rounds in full batches that take `seconds_of(rows)`; the batch sizes seen."""
    size.start(num_requests)
    seen = []
    for turn in range(rounds):
        seen.append(size.rows)
        size.note(size.rows, waiting(turn), seconds_of(size.rows))
    return list(dict.fromkeys(seen))


def test_a_number_stays():
    assert run(BatchSize(5), lambda rows: 1.0) == [5]


def test_grows_to_the_bound_where_rows_are_free():
    assert run(BatchSize("auto", 100), lambda rows: 1.0) == [8, 16, 32, 64, 100]
    assert run(BatchSize("auto", 4), lambda rows: 1.0) == [4]


def test_goes_back_where_more_rows_do_not_help():
    size = BatchSize("auto", 512)
    assert run(size, lambda rows: max(32, rows)) == [8, 16, 32, 64]
    assert size.rows == 32


def test_one_slow_round_decides_nothing():
    size = BatchSize("auto", 64)
    size.start(100)
    for turn in range(5 * TRIAL_ROUNDS):
        size.note(size.rows, 50, 50.0 if turn % TRIAL_ROUNDS == 0 else 1.0)
    assert size.rows == 64


def test_narrow_rounds_decide_nothing():
    size = BatchSize("auto", 64)
    size.start(100)
    for _ in range(50):
        size.note(FIRST_ROWS - 1, 0, 1.0)
    assert size.rows == FIRST_ROWS


def test_searches_again_when_a_part_of_the_queue_is_done():
    """Long prompts forbid more than 8 rows, the later short ones do not."""
    size = BatchSize("auto:2", 64)
    size.start(100)
    rows = []
    for turn in range(200):
        late = turn >= 100
        size.note(size.rows, 40 if late else 90, 1.0 if late else size.rows)
        rows.append(size.rows)
    assert rows[90] == FIRST_ROWS
    assert rows[-1] == 64


def test_a_new_queue_searches_anew():
    size = BatchSize("auto", 64)
    run(size, lambda rows: rows)
    assert size.rows == FIRST_ROWS
    run(size, lambda rows: 1.0)
    assert size.rows == 64


@pytest.mark.parametrize("wanted", [12, "auto"])
def test_halving_is_final(wanted):
    size = BatchSize(wanted, 64)
    size.start(100)
    size.halve(12)
    assert size.rows == 6
    assert run(size, lambda rows: 1.0) == [6]
    size.halve(1)
    assert size.rows == 1


@pytest.mark.parametrize("wanted", [0, -1, True, None, 2.5, "8", "auto:0", "automatic", "auto:x"])
def test_refuses(wanted):
    with pytest.raises(ConfigError, match="batch_size is"):
        BatchSize(wanted)
