"""What holds for every registered rule, and what loosened texts show when they are scored again."""

import itertools

import pytest
import torch

from fly.acceptance import Reason, RejectionSampling, Scores, rules
from fly.errors import ConfigError
from tests.acceptance.rescoring import (
    LOOSE,
    SLACK,
    TOLERANCE,
    config_of,
    decode,
    loosened,
    requests,
    temperature_of,
    written_rules,
)
from tests.models import EOS, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # K may be below W
WRITTEN = written_rules()


def home(name, settings, **more):
    """A rule's configuration at a temperature where it works."""
    return config_of(name, **{"temperature": temperature_of(name)} | settings | more)


CASES = [(name, settings) for name in WRITTEN for settings in LOOSE.get(name, [{}])]
LOSSY = [(name, settings) for name, settings in CASES if home(name, settings).setup.is_loose]
# Decoding takes its time: of each rule the first settings only.
TEXTS = [next(case for case in LOSSY if case[0] == name) for name in dict(LOSSY)]
SCORED = [(name, settings) for name, settings in CASES if name in SLACK]


def each(cases):
    ids = [f"{name}-{place}" for place, (name, _) in enumerate(cases)]
    return pytest.mark.parametrize(("name", "settings"), cases, ids=ids)


def test_the_rules_are_found():
    """Guards the lists above: they would pass if they were empty."""
    assert {"native", "fly", "margin", "typical", "relaxed_top_n"} <= set(WRITTEN)
    assert {"mars", "cascade", "divergence"} <= {name for name, _ in LOSSY}
    assert "native" not in {name for name, _ in LOSSY}


@pytest.mark.parametrize("name", WRITTEN)
def test_settings_explain_themselves_and_unknown_ones_are_refused(name):
    for key, field in rules.get(name).settings_model().model_fields.items():
        assert field.description, key
    with pytest.raises(ConfigError, match="unknown setting 'nonsense'"):
        home(name, {}, acceptance_settings={"nonsense": 1})


@pytest.mark.parametrize("name", WRITTEN)
def test_temperatures_are_those_declared(name):
    where = rules.get(name).temperatures
    for temperature, misfit in ((0.0, "sampled"), (0.7, "greedy")):
        if where == misfit:
            with pytest.raises(ConfigError, match=f"acceptance is '{name}'"):
                config_of(name, temperature=temperature)
        else:
            config_of(name, temperature=temperature)


VOCAB, K, ROWS = 7, 5, 64


def random_scores(is_sampled, **options):
    """Rows of all lengths, unsure targets, drafts that know the distributions they drew from."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(ROWS, K + 1, VOCAB, generator=generator) * 1.5 + 1
    draft = logits[:, :K] + torch.randn(ROWS, K, VOCAB, generator=generator) * 0.7
    q = draft.softmax(-1)
    ids = q.flatten(0, 1).multinomial(1, generator=generator).view(ROWS, K)
    law = None
    if is_sampled:
        draws = torch.rand(ROWS, K + 1, 2, generator=generator, dtype=torch.float64)
        law = RejectionSampling(logits.softmax(-1), q, draws, torch.ones(ROWS, dtype=torch.bool))
    lengths = torch.arange(ROWS) % (K + 1)
    return Scores(logits, ids, lengths, law=law, draft_probs=q, **options)


def decided(name, settings, is_sampled, **options):
    scores = random_scores(is_sampled, **options)
    return scores, home(name, settings).setup.rule.accept(scores)


def guards():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.arange(VOCAB) == 2
    places = torch.rand(ROWS, K, generator=generator) < 0.5
    return {"protected": tokens, "closing": tokens, "locked": places}


@pytest.mark.parametrize("guard", ["protected", "closing", "locked"])
@each(LOSSY)
def test_nothing_protected_is_loosened(name, settings, guard):
    """Greedily and sampled, where the rule has a meaning there; elsewhere nothing changes but the
    places behind, whose windows never look at what was loosened."""
    for is_sampled in (False, True):
        if rules.get(name).temperatures == ("greedy" if is_sampled else "sampled"):
            continue
        free, verdict_free = decided(name, settings, is_sampled)
        scores, verdict = decided(name, settings, is_sampled, **{guard: guards()[guard]})
        assert (verdict_free.loose & scores.is_protected).any(), "there is something to protect"
        assert not (verdict.loose & scores.is_protected).any()
        kept = verdict.accepted & scores.is_protected
        assert not (kept & ~free.native).any()
        elsewhere = ~scores.is_protected
        assert torch.equal(verdict.loose & elsewhere, verdict_free.loose & elsewhere)


@each(CASES)
def test_reasons_say_what_was_decided(name, settings):
    for is_sampled in (False, True):
        if rules.get(name).temperatures == ("greedy" if is_sampled else "sampled"):
            continue
        scores, verdict = decided(name, settings, is_sampled)
        reason = verdict.reason
        kept = (reason == Reason.MATCH) | (reason == Reason.LOOSE)
        assert torch.equal(verdict.accepted, kept)
        assert torch.equal(verdict.loose, reason == Reason.LOOSE)
        assert torch.equal(reason == Reason.OUTSIDE, ~scores.in_proposal)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@each(SCORED)
def test_every_loosened_position_holds_when_scored_from_scratch(name, settings, temperature):
    config = config_of(name, temperature=temperature, protect_special_tokens=False, **settings)
    asked = requests(budget=24, temperature=temperature)
    rule, results = decode(config, asked)
    count = 0
    for request, result in zip(asked, results, strict=True):
        for view in loosened(request, result):
            assert SLACK[name](rule, view) >= -TOLERANCE, view
            count += 1
    assert count >= (3 if temperature == 0 else 1)


@each(TEXTS)
def test_rows_decide_alone(name, settings):
    """A batch with rows refilled answers as each request alone."""
    temperature = temperature_of(name)
    asked = requests(budget=20, temperature=temperature)
    together = decode(home(name, settings), asked, batch_size=3)[1]
    for request, result in zip(asked[::3], together[::3], strict=True):
        [alone] = decode(home(name, settings), [request], batch_size=1)[1]
        assert (result.token_ids, result.origins) == (alone.token_ids, alone.origins)


# Settings with which nothing is loosened but exact ties.
OFF: dict[str, list[dict[str, object]]] = {
    "margin": [{"max_gap": 0.0}, {"ratio": 1.0}, {"max_gap": 0.0, "window": 2}],
    "typical": [{"epsilon": 1.0, "delta": 1e9}],
    "relaxed_top_n": [{"top_n": 1}, {"delta": 0.0}],
    "mars": [{"threshold": 1.0}],
    "cascade": [{"alpha": 0.0}],
    "divergence": [{"threshold": 0.0}, {"divergence": "tv", "threshold": 0.0}],
}


@pytest.mark.parametrize(("name", "settings"), [(name, each) for name in OFF for each in OFF[name]])
def test_with_its_loosening_off_a_rule_is_native(name, settings):
    """Greedily for all, and sampled for those that call themselves lossless: these refuse and draw
    as native acceptance does on the same scores."""
    config = config_of(name, acceptance_settings=settings)
    rule, results = decode(config, requests(temperature=0.0))
    _, native = decode(config_of("native"), requests(temperature=0.0))
    assert [r.token_ids for r in results] == [r.token_ids for r in native]
    assert not any("l" in result.origins for result in results)
    scores = random_scores(is_sampled=True)
    verdict = rule.accept(scores)
    if rule.is_lossless:
        assert not config.setup.is_loose
        assert not verdict.loose.any()
        assert torch.equal(verdict.accepted, scores.native)
        assert verdict.weight is None
    elif name != "typical":
        # Why they do not: a likeliest token that a draw refused is kept.
        assert verdict.loose.any()
        best = scores.ids == scores.probs.argmax(-1)
        assert not (verdict.loose & ~best).any()


def text_of(ids):
    return tiny_tokenizer().decode(ids)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@each(TEXTS)
def test_the_first_n_tokens_are_native(name, settings, temperature):
    if rules.get(name).temperatures == ("greedy" if temperature else "sampled"):
        pytest.skip("the rule has no meaning there")
    asked = requests(budget=24, temperature=temperature)
    settings = settings | {"temperature": temperature, "protect_special_tokens": False}
    _, native = decode(config_of("native", temperature=temperature), asked)
    for n in (1, 7):
        _, results = decode(config_of(name, strict_first_n=n, **settings), asked)
        for own, result in zip(native, results, strict=True):
            assert result.token_ids[:n] == own.token_ids[:n]
            assert "l" not in result.origins[:n]
        assert any("l" in result.origins for result in results) or temperature


MARKERS = {  # how a closing marker meets the tokens of the tiny vocabulary
    "single characters": ["a", "e"],
    "split, or inside of a token": ["i", "ed"],
    "special tokens": ["<s>", "<pad>"],
    "part of a character": ["o", "\u00e9"],
}


def assert_inside(request, result, markers):
    """No token was loosened outside, and none that belongs to a closing marker: read off the text,
    from its beginning for every token."""
    opening, closing = markers
    ids = [*request.prompt_ids, *result.token_ids]
    first = len(request.prompt_ids)
    count = 0
    for place, origin in enumerate(result.origins, start=first):
        if origin != "l":
            continue
        count += 1
        before, behind = text_of(ids[:place]), text_of(ids[: place + 1])
        assert before.rfind(opening) > before.rfind(closing)
        assert behind.count(closing) == before.count(closing)
        rest = text_of(ids[place:])
        assert not any(
            before.endswith(closing[:n]) and rest.startswith(closing[n:])
            for n in range(1, len(closing))
        )
    return count


@each(TEXTS)
def test_only_inside_loosens_nothing_outside(name, settings):
    temperature = temperature_of(name)
    asked = requests(budget=30, temperature=temperature)
    more = settings | {"protect_special_tokens": False}
    _, free = decode(home(name, more), asked)
    found = changed = 0
    for markers in MARKERS.values():
        config = home(name, more, only_inside=markers)
        _, results = decode(config, asked)
        for request, result, other in zip(asked, results, free, strict=True):
            found += assert_inside(request, result, markers)
            changed += result.token_ids != other.token_ids
        [alone] = decode(config, asked[4:5], batch_size=1)[1]
        assert alone.token_ids == results[4].token_ids
    assert changed > 3
    assert found > 0


@each(TEXTS)
def test_special_tokens_are_not_traded(name, settings):
    """In whole texts: neither the draft's token nor the target's own is one where a token was
    loosened.  Without the protection there are such places."""
    temperature = temperature_of(name)
    asked = requests(budget=30, temperature=temperature)
    special = {0, 1, 2, 3}
    assert EOS in special
    traded = {}
    for is_protected in (True, False):
        config = home(name, settings, protect_special_tokens=is_protected)
        rounds = list(itertools.chain.from_iterable(r.rounds for r in decode(config, asked)[1]))
        traded[is_protected] = [
            {record.draft_ids[m.place], m.preferred_id}
            for record in rounds
            for m in record.mismatches
            if record.reasons[m.place] == Reason.LOOSE
        ]
        assert traded[is_protected], "something is loosened"
    assert not any(tokens & special for tokens in traded[True])
