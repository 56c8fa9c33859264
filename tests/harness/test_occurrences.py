"""Copies are numbered; those that only fill a process's list up are told from those asked for."""

from lm_eval.api.instance import Instance

from fly.harness.requests import draw_seed, find_originals, number_copies


def instance(doc_id, repeats=1, prompt="p", task="toy", idx=0):
    return Instance("generate_until", {}, (prompt, {}), idx, (task, doc_id, repeats))


def test_no_copies():
    requests = [instance(0), instance(1), instance(0, task="other"), instance(0, idx=1)]
    assert number_copies(requests) == [0, 0, 0, 0]
    assert find_originals(requests) == [0, 1, 2, 3]


def test_repeats_are_requests_of_their_own():
    one, other = instance(0, 3), instance(1, 3)
    requests = [one] * 3 + [other] * 3
    assert number_copies(requests) == [0, 1, 2, 0, 1, 2]
    assert find_originals(requests) == [0, 1, 2, 3, 4, 5]


def test_padding_takes_the_answers_of_what_it_copies():
    """As lm-eval lists it: every copy of the last request, once for each missing one."""
    one, last = instance(0, 2), instance(1, 2)
    requests = [one] * 2 + [last] * 2 + [last] * 2 + [last] * 2
    assert find_originals(requests) == [0, 1, 2, 3, 2, 3, 2, 3]


def test_look_alikes_are_not_padding():
    requests = [instance(None, None, task=None), instance(None, None, task=None)]
    assert find_originals(requests) == [0, 1]
    assert number_copies(requests) == [0, 1]


def test_seeds_follow_the_request_and_the_run():
    others = [(instance(1), 0, 7), (instance(0, task="other"), 0, 7), (instance(0, idx=1), 0, 7)]
    asked = [(instance(0), 0, 7), (instance(0), 1, 7), (instance(0), 0, 8), *others]
    seeds = [draw_seed(*one) for one in asked]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == draw_seed(instance(0, prompt="another"), 0, 7)
    assert all(0 <= seed < 2**64 for seed in seeds)
