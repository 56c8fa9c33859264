"""Every point's answers and counters are those of a decoder of its own."""

import functools
import itertools
import warnings
from dataclasses import replace

import pytest

from fly.config import FLyConfig
from fly.demo.problems import heldout
from fly.drafting import drafters
from fly.drafting.chain import ModelDrafter
from fly.engine import Request, SpeculativeDecoder
from fly.engine.model.probe import BATCHED, PLAIN, Finding, probe
from fly.errors import ConfigError, DecodingError, FLyWarning, ModelError, RequestError
from fly.workbench.sweeps.shared import SharedDecoding, drafting_key
from tests.crossing import mostly_slow
from tests.drafting.foreign import permuted
from tests.models import (
    Bytes,
    Tape,
    blurred,
    demo_model,
    demo_tokenizer,
    prompts,
    tiny,
    tiny_tokenizer,
)

probed_once = functools.cache(probe)


@pytest.fixture(autouse=True)
def _probe_once(monkeypatch):
    monkeypatch.setattr("fly.engine.model.load.probe", probed_once)


@functools.cache
def demo_requests():
    """Twelve problems: some end by themselves, some at a budget, some at a stop string."""
    problems = [p for kind in ("arithmetic", "code") for p in heldout(kind, 6, seed=11)]
    requests = []
    for index, problem in enumerate(problems):
        ids = tuple(demo_tokenizer()(problem.prompt).input_ids)
        budget = (40, 17, 7)[index % 3]
        stop = ("\n\n", " = ") if index % 4 == 1 else ()
        requests.append(Request(ids, budget, stop, key=str(index)))
    return requests


def answers_of(shared, point, requests, indices=None):
    """A point's answers in the order of the requests."""
    found = dict(shared.decode(point, requests, indices))
    assert sorted(found) == list(indices or range(len(requests)))
    return [found[index] for index in sorted(found)]


def config(**settings):
    return FLyConfig(**{"win_len": 2, "entropy_thre": 0.3, **settings})


def grid(**shared):
    """Rules of several windows, gates and variants at three K, and native acceptance."""
    points = {
        f"{k},{window},{threshold}": config(
            spd_k=k, win_len=window, entropy_thre=threshold, **shared
        )
        for k, window, threshold in itertools.product((12, 6), (2, 5), (0.0, 0.3))
    }
    points["paper"] = config(spd_k=9, fly_variant="paper", entropy_thre=0.05, **shared)
    points["full"] = config(spd_k=9, entropy="full", protect_special_tokens=False, **shared)
    points["no window"] = config(spd_k=6, abla_no_window=True, **shared)
    points["native"] = config(spd_k=12, acceptance="native", **shared)
    points["native 4"] = config(spd_k=4, acceptance="native", **shared)
    return points


def few(**shared):
    """Six of them, down to a K of 4."""
    names = ("12,2,0.0", "6,5,0.3", "paper", "full", "no window", "native 4")
    return {name: one for name, one in grid(**shared).items() if name in names}


RELEASED = {"match": "earliest", "guess_cost": 0.0}


def counters(statistics, has_own_forwards):
    """All that does not hang on the clock, nor on which rows and rounds share draft forwards."""
    counts = statistics.to_dict()
    hidden = [] if has_own_forwards else ["draft_forwards"]
    of_the_clock = ("seconds", "timed")
    return {k: v for k, v in counts.items() if not k.startswith(of_the_clock) and k not in hidden}


def answer_of(result, has_own_forwards=False):
    return (
        result.token_ids,
        result.text,
        result.finish_reason,
        counters(result.statistics, has_own_forwards),
    )


def rounds_of(answers):
    return sum(answer.statistics.rounds + answer.statistics.plain for answer in answers)


def num_contexts(shared):
    """Contexts held in memory."""
    memos = (memo for group in shared._groups.values() for memo in group.memos.values())
    return sum(len(memo.contexts) for memo in memos)


def assert_as_alone(shared, models, tokenizer, points, requests, batch_size):
    """In the order asked; returns the points' answers and how many rounds they have in all."""
    found, num_rounds = {}, 0
    for name in points:
        point = shared.points[name]
        # Guesses that pay hang on what was drafted before, the released code's on the text alone.
        guesses = point.drafter_name == "multilevel" and point.drafter_settings != RELEASED
        exact = batch_size == 1 and not guesses
        own = point.with_fixed_length()  # as points share it
        alone = SpeculativeDecoder(*models, tokenizer, own, batch_size=batch_size)
        results = dict(alone.decode(requests))
        found[name] = answers_of(shared, name, requests)
        for index, answer in enumerate(found[name]):
            result = results[index]
            num_rounds += result.statistics.rounds + result.statistics.plain
            assert answer_of(answer, exact) == answer_of(result, exact), (name, index)
            assert_origins(answer)
    return found, num_rounds


def assert_origins(answer):
    counts = answer.statistics
    assert len(answer.origins) == counts.emitted == len(answer.token_ids)
    if not counts.trimmed:
        letters = {letter: answer.origins.count(letter) for letter in "mlcbp"}
        assert letters == {
            "m": counts.matched,
            "l": counts.loose,
            "c": counts.corrections,
            "b": counts.bonuses,
            "p": counts.plain,
        }


@pytest.mark.parametrize(
    ("drafter", "batch_size", "every"), mostly_slow([("multilevel", 1, 5), ("model", 8, 1)])
)
def test_the_embedded_pair_answers_as_every_point_alone(drafter, batch_size, every):
    models = demo_model("target"), demo_model("draft")
    points = (grid if every == 1 else few)(drafter=drafter)
    shared = SharedDecoding(*models, demo_tokenizer(), points, batch_size=batch_size)
    requests = demo_requests()[::every]
    order = shared.order(points)
    assert sorted(order) == sorted(points)
    found, num_rounds = assert_as_alone(
        shared, models, demo_tokenizer(), order, requests, batch_size
    )
    assert 3 * shared.rounds_decoded < 2 * num_rounds
    assert sum(answer.origins.count("l") for answer in found["12,2,0.0"]) > 0
    assert not any("l" in answer.origins for answer in found["native 4"])
    assert num_contexts(shared) == 0, "all points are done, nothing is kept"


def tiny_requests():
    """Of all kinds, one of them as long as the context."""
    stops = ((), ("a",), (), ("ing", " the"))
    budgets = (24, 9, 1, 16)
    asked = [Request(ids, budgets[i % 4], stops[i % 4]) for i, ids in enumerate(prompts(6))]
    return [*asked, Request(tuple(range(4, 90)) + tuple(range(4, 64)), 14)]


@pytest.mark.filterwarnings("ignore:.*loosen_copied")
@pytest.mark.parametrize(
    ("drafter", "settings", "batch_size"),
    mostly_slow(
        [
            ("model", {}, 8),
            ("ngram", {}, 8),
            ("none", {}, 8),
            ("model", {}, 1),
            ("multilevel", {}, 1),
            ("multilevel", RELEASED, 1),
            ("ngram", {}, 1),
        ],
        3,
    ),
)
def test_random_models_answer_as_every_point_alone(drafter, settings, batch_size):
    """In an order that gains little: short proposals first, which serve nobody's long ones."""
    target = tiny("llama")
    models = target, blurred(target)
    points = few(drafter=drafter, drafter_settings=settings, loosen_copied=True)
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=batch_size)
    order = sorted(points, key=lambda name: points[name].spd_k)
    found, num_rounds = assert_as_alone(
        shared, models, tiny_tokenizer(), order, tiny_requests(), batch_size
    )
    assert 0 < shared.rounds_decoded < num_rounds
    reasons = {answer.finish_reason for answers in found.values() for answer in answers}
    assert reasons == {"eos", "stop", "length"}


@pytest.mark.filterwarnings("ignore:.*(copies the context|loosen_copied)")
def test_copies_are_judged_natively_here_too():
    """Points of FLy are native's; those that loosen copies share nothing with them."""
    target = tiny("llama")
    points = {f"{name} locked": one for name, one in few(drafter="ngram").items()}
    points |= {
        f"{name} loose": one for name, one in few(drafter="ngram", loosen_copied=True).items()
    }
    shared = SharedDecoding(target, None, tiny_tokenizer(), points, batch_size=4)
    requests = [Request(ids * 3, 24) for ids in prompts(6) if len(ids) < 30]
    found, _ = assert_as_alone(shared, (target, None), tiny_tokenizer(), points, requests, 4)
    loose = {name: sum(one.statistics.loose for one in answers) for name, answers in found.items()}
    assert not any(count for name, count in loose.items() if "locked" in name)
    assert any(count for name, count in loose.items() if "loose" in name)
    texts = {name: [one.token_ids for one in answers] for name, answers in found.items()}
    for name, ids in texts.items():
        assert ids == texts["native 4 locked"] or "loose" in name


@pytest.mark.parametrize("method", mostly_slow(["intersect", "reencode"]))
def test_a_draft_with_another_tokenizer_is_shared_too(method):
    """What it proposes hangs on the text alone, not on the rounds that brought it."""
    target = tiny("llama")
    tokenizer, draft = permuted(tiny_tokenizer(), blurred(target))
    points = few(drafter="other_tokenizer", drafter_settings={"method": method})
    models = target, draft
    own = {"batch_size": 4, "draft_tokenizer": tokenizer}
    shared = SharedDecoding(*models, tiny_tokenizer(), points, **own)
    requests = tiny_requests()[:5]
    num_rounds = 0
    for name in shared.order(points):
        alone = SpeculativeDecoder(*models, tiny_tokenizer(), shared.points[name], **own)
        results = dict(alone.decode(requests))
        answers = answers_of(shared, name, requests)
        num_rounds += rounds_of(answers)
        for index, answer in enumerate(answers):
            assert answer_of(answer) == answer_of(results[index]), (name, index)
    assert shared.rounds_decoded < num_rounds


def test_processed_logits_are_shared_too():
    """A penalty looks at the whole text; what the target chooses by differs from its logits."""
    target = tiny("llama")
    models = target, blurred(target)
    points = few() | {
        name: config(spd_k=9, fly_variant="vllm", entropy_thre=threshold)
        for name, threshold in {"vllm": 0.3, "vllm, sure": 0.6}.items()
    }
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=4)
    shaping = {"repetition_penalty": 1.3, "suppress_tokens": [7, 9]}
    requests = [Request(ids, 20, generation=shaping) for ids in prompts(4)]
    assert_as_alone(shared, models, tiny_tokenizer(), shared.order(points), requests, batch_size=4)


def test_items_come_in_rungs_and_points_stop():
    target = tiny("llama")
    models = target, blurred(target)
    points = {name: c for name, c in grid().items() if c.spd_k == 12}
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=4)
    requests = tiny_requests()
    stopped, *others = shared.order(points)
    for name in (stopped, *others):
        answers_of(shared, name, requests[:4], range(4))
    shared.stop(stopped)
    for name in others:
        answers = answers_of(shared, name, requests[4:], range(4, len(requests)))
        alone = SpeculativeDecoder(*models, tiny_tokenizer(), points[name], batch_size=4)
        results = dict(alone.decode(requests[4:]))
        for place, answer in enumerate(answers):
            assert answer_of(answer) == answer_of(results[place])
    assert num_contexts(shared) == 0, "the stopped point holds nothing"


def test_the_last_point_that_stops_frees_the_memory():
    target = tiny("llama")
    points = {"loose": config(spd_k=6), "strict": config(spd_k=6, acceptance="native")}
    shared = SharedDecoding(target, blurred(target), tiny_tokenizer(), points)
    answers_of(shared, "loose", tiny_requests())
    assert num_contexts(shared) > 0
    shared.stop("strict")
    assert num_contexts(shared) == 0


def test_a_second_answer_costs_no_round():
    target = tiny("llama")
    points = {"loose": config(spd_k=6), "other": config(spd_k=3)}
    shared = SharedDecoding(target, blurred(target), tiny_tokenizer(), points, batch_size=2)
    first = answers_of(shared, "loose", tiny_requests())
    rounds = shared.rounds_decoded
    assert answers_of(shared, "loose", tiny_requests()) == first
    assert shared.rounds_decoded == rounds == rounds_of(first)


def test_an_interrupted_point_goes_on_where_it_was(monkeypatch):
    target = tiny("llama")
    points = {"loose": config(spd_k=6), "other": config(spd_k=3)}
    want = SharedDecoding(target, blurred(target), tiny_tokenizer(), points, batch_size=2)
    shared = SharedDecoding(target, blurred(target), tiny_tokenizer(), points, batch_size=2)
    forward, calls = target.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answers_of(shared, "loose", tiny_requests())
    assert shared.rounds_decoded > 0
    for name in points:
        mine, theirs = (answers_of(one, name, tiny_requests()) for one in (shared, want))
        assert mine == theirs
    assert shared.rounds_decoded == want.rounds_decoded, "no round was decoded twice"


def test_a_wider_proposal_of_a_tape_is_cut_for_a_smaller_k():
    """Exact letters: the draft errs at places 2 and 7, and the target is unsure of both."""
    target, draft = Tape("abcdefghij", unsure=(2, 7)), Tape("ab.defg.ij")
    points = {
        "9": config(spd_k=9, win_len=2),
        "4": config(spd_k=4, win_len=2),
    }
    shared = SharedDecoding(target, draft, Bytes(), points, batch_size=1)
    request = Request((95,), 10)
    [nine] = answers_of(shared, "9", [request])
    [four] = answers_of(shared, "4", [request])
    assert (nine.text, nine.origins) == ("ab.defghij", "mmlmmmmcmm")
    # At place 2 too few of its tokens follow; what begins behind is met by nobody before.
    assert (four.text, four.origins) == ("abcdefghij", "mmcmmmmbmm")
    assert four.statistics.refused_boundary == 1


def test_a_drafter_that_is_not_known_to_draft_chains_shares_within_a_k(monkeypatch):
    class Odd(ModelDrafter):
        """What it proposes hangs on K."""

        @classmethod
        def traits(cls, config):
            return replace(super().traits(config), is_chain=False)

        def propose(self, rows, limits, choose):
            proposal = super().propose(rows, limits, choose)
            return replace(proposal, ids=(proposal.ids + (self.k % 2)).clamp_max(90))

    monkeypatch.setitem(drafters._entries, "model", Odd)
    target = tiny("llama")
    models = target, blurred(target)
    points = {
        "5": config(spd_k=5),
        "5 strict": config(spd_k=5, acceptance="native"),
        "5 unsure": config(spd_k=5, entropy_thre=0.6),
        "4": config(spd_k=4),
    }
    keys = {name: drafting_key(one) for name, one in points.items()}
    assert keys["5"] == keys["5 unsure"]
    assert len(set(keys.values())) == 3
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=1)
    assert_as_alone(shared, models, tiny_tokenizer(), points, tiny_requests()[:3], 1)


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        ({"spd_k": 4}, {"spd_k": 20, "win_len": 9}, True),
        ({}, {"acceptance": "native", "max_ngram_size": 2}, True),
        ({}, {"use_ngram": True}, False),
        ({"use_ngram": True}, {"drafter": "multilevel", "entropy": "full"}, True),
        ({"use_ngram": True}, {"use_ngram": True, "max_ngram_size": 2}, False),
        ({}, {"total_gen_tok": 9}, False),
        ({"use_sd": False}, {"use_sd": False, "spd_k": 3}, True),
        ({"drafter": "ngram"}, {"drafter": "ngram", "draft_length": "fixed"}, True),
    ],
)
@pytest.mark.filterwarnings("ignore::fly.errors.ConfigWarning")
def test_points_that_draft_alike_have_one_key(one, other, is_shared):
    keys = [drafting_key(config(**settings)) for settings in (one, other)]
    assert (keys[0] == keys[1]) is is_shared


def test_numbers_that_are_not_finite_are_told():
    target = Tape("abcdef", poison={3: float("nan")})
    points = {"9": config(spd_k=9), "1": config(spd_k=1, acceptance="native")}
    shared = SharedDecoding(target, Tape("abcdef"), Bytes(), points)
    with pytest.raises(DecodingError, match="not finite behind token 1 of request 0"):
        answers_of(shared, "9", [Request((95,), 3)])
    [short] = answers_of(shared, "1", [Request((95,), 3)])
    assert short.text == "abc", "a point that did not look so far is not concerned"


def test_what_samples_is_refused():
    target = Tape("abc")
    shared = SharedDecoding(target, target, Bytes(), {"a": config()})
    with pytest.raises(RequestError, match=r"request 7: temperature is 0\.7, but a sweep decodes"):
        answers_of(shared, "a", [Request((95,), 6, temperature=0.7)], [7])
    with pytest.raises(ConfigError, match=r"point 'warm': temperature is 0\.5"):
        SharedDecoding(target, target, Bytes(), {"warm": config(temperature=0.5)})


def test_a_number_names_one_request():
    target = Tape("abc")
    shared = SharedDecoding(target, target, Bytes(), {"a": config(), "b": config(win_len=3)})
    answers_of(shared, "a", [Request((95,), 3)])
    with pytest.raises(RequestError, match="request 0 is not the one that had this number"):
        answers_of(shared, "b", [Request((95,), 2)])


def test_no_points_and_no_draft_are_refused():
    with pytest.raises(ConfigError, match="there are no points"):
        SharedDecoding(Tape("abc"), None, Bytes(), {})
    with pytest.raises(ConfigError, match="point 'a': drafter 'model' needs a draft model"):
        SharedDecoding(Tape("abc"), None, Bytes(), {"a": config()})


def test_a_target_that_cannot_verify_has_nothing_to_sweep(monkeypatch):
    found = Finding(PLAIN, {BATCHED.name: "a state of its own"})
    monkeypatch.setattr("fly.engine.model.load.probe", lambda _: found)
    models = tiny("llama"), blurred(tiny("llama"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FLyWarning)  # says which model and why
        with pytest.raises(ModelError, match="cannot speculate"):
            SharedDecoding(*models, tiny_tokenizer(), {"a": config()})


def test_a_context_that_ends_before_the_budget_warns_once_per_drafting():
    target = tiny("llama")
    points = {"a": config(spd_k=6), "b": config(spd_k=6, acceptance="native")}
    shared = SharedDecoding(target, blurred(target), tiny_tokenizer(), points)
    request = Request(tuple(range(4, 90)) + tuple(range(4, 70)), 30)
    with pytest.warns(FLyWarning, match="it gets 8"):
        [answer] = answers_of(shared, "a", [request])
    answers_of(shared, "b", [request])
    assert len(answer.token_ids) <= 8
