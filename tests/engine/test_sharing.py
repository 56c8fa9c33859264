"""Decoders made of one another share models and caches, and take turns."""

import pytest

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from fly.errors import ConfigError, DecodingError, FLyWarning
from tests.models import Bytes, Tape, blurred, prompts, tiny, tiny_tokenizer

FLY = {"spd_k": 6, "win_len": 2, "entropy_thre": 0.3}
CONFIGS = {
    "fly": FLyConfig(**FLY),
    "native": FLyConfig(**FLY, acceptance="native"),
    "target": FLyConfig(use_sd=False),
    # Of a length that follows the clock, rounds differ from run to run.
    "ngram": FLyConfig(**FLY, acceptance="native", drafter="ngram", draft_length="fixed"),
    "multilevel": FLyConfig(**{**FLY, "spd_k": 8}, drafter="multilevel"),
}


def decoder(config=CONFIGS["fly"], kind="llama", **options):
    target = tiny(kind)
    return SpeculativeDecoder(target, blurred(target), tiny_tokenizer(), config, **options)


def told(results):
    """All of the results but the seconds."""
    return [
        (result.token_ids, result.text, result.finish_reason, result.origins, result.round_lens)
        for result in results
    ]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_it_answers_as_one_that_was_made_anew(kind, monkeypatch):
    first = decoder(kind=kind, batch_size=3)
    separate = {name: decoder(config, kind, batch_size=5) for name, config in CONFIGS.items()}
    monkeypatch.setattr("fly.engine.model.load.probe", None)
    monkeypatch.setattr("fly.engine.plain_rounds.EVERY", 10**6)  # each counts its own
    for name in (*CONFIGS, *CONFIGS):  # twice: what the others left behind does not matter
        config = CONFIGS[name]
        shared = first.with_config(config, batch_size=5)
        got = shared.generate(prompts(12), max_new_tokens=24)
        assert told(got) == told(separate[name].generate(prompts(12), max_new_tokens=24))
        assert shared.served == separate[name].served
        assert shared.config is config
        assert shared.batch_size.rows == 5
    assert first.batch_size.rows == 3


def test_it_uses_the_same_caches():
    first = decoder()
    second = first.with_config(CONFIGS["native"])
    assert second._engine.target is first._engine.target
    assert second._engine.drafter.model is first._engine.drafter.model
    target_only = first.with_config(CONFIGS["target"])
    again = target_only.with_config(CONFIGS["fly"])
    assert again._engine.drafter.model is first._engine.drafter.model


def test_batch_size_and_rounds_are_handed_on():
    first = decoder(batch_size="auto:2", max_batch_size=4, record_rounds=True)
    second = first.with_config(CONFIGS["native"])
    assert second.batch_size is not first.batch_size
    assert second.batch_size.rows == 4
    assert second.generate([[5, 6]], max_new_tokens=3)[0].rounds
    silent = second.with_config(CONFIGS["native"], record_rounds=False)
    assert silent.generate([[5, 6]], max_new_tokens=3)[0].rounds is None
    with pytest.raises(ConfigError, match="batch_size"):
        first.with_config(CONFIGS["native"], batch_size=0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_in_flight_are_refused(order):
    """As two calls of one decoder are: they would write into each other's rows."""
    first = decoder()
    both = (first, first.with_config(CONFIGS["native"]))
    overtaken, other = (both[place] for place in order)
    asked = [Request((5, 6, 7), 20), Request((8, 9), 2)]
    going = overtaken.decode(asked)
    assert next(going)[0] == 1
    assert len(list(other.decode(asked))) == 2
    with pytest.raises(DecodingError, match="another call took over"):
        next(going)
    anew = decoder(overtaken.config)
    got, want = (engine.generate(prompts(3), max_new_tokens=20) for engine in (overtaken, anew))
    assert told(got) == told(want)


def test_release_gives_up_the_caches_and_nothing_else():
    first = decoder()
    other = first.with_config(CONFIGS["target"])
    want = told(first.generate(prompts(5), max_new_tokens=20))
    assert slots(first) == [True, True]
    other.release()  # of the draft too, although it does not use it
    assert slots(first) == [False, False]
    assert told(first.generate(prompts(5), max_new_tokens=20)) == want


def slots(engine):
    """Whether target and draft hold keys."""
    pair = engine._models.pair
    return [model.cache.num_rows > 0 for model in (pair.target, pair.draft)]


def test_a_call_in_flight_does_not_survive_a_release():
    first = decoder()
    going = first.decode([Request((5, 6, 7), 20), Request((8, 9), 2)])
    next(going)
    first.release()
    with pytest.raises(DecodingError, match="fetched"):
        next(going)


def test_a_missing_draft_is_refused():
    first = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), CONFIGS["target"])
    with pytest.raises(ConfigError, match="needs a draft model") as caught:
        first.with_config(CONFIGS["fly"])
    with pytest.raises(ConfigError) as at_first:
        SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), CONFIGS["fly"])
    assert str(caught.value) == str(at_first.value)
    found = first.with_config(CONFIGS["ngram"]).generate(prompts(4), max_new_tokens=9)
    anew = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), CONFIGS["ngram"])
    assert told(found) == told(anew.generate(prompts(4), max_new_tokens=9))


def test_what_decodes_plainly_goes_on_so(recwarn):
    """Mamba's state cannot be taken back; said once."""
    target = tiny("mamba")
    with pytest.warns(FLyWarning, match="plainly"):
        first = SpeculativeDecoder(target, target, tiny_tokenizer(), CONFIGS["fly"])
    for name in ("native", "ngram", "target"):
        other = first.with_config(CONFIGS[name])
        assert other.served == first.served
        [result] = other.generate([[7, 8]], max_new_tokens=5)
        assert (result.origins, result.round_lens) == ("p" * len(result.token_ids), [])
    assert not recwarn.list


def origins_of(draft, target, budget, k, window, unsure=range(9)):
    config = FLyConfig(spd_k=k, win_len=window)
    engine = SpeculativeDecoder(Tape(target, unsure), Tape(draft), Bytes(), config, batch_size=1)
    [result] = engine.generate([[ord("p")]], max_new_tokens=budget)
    return result.origins, result.round_lens


def test_origins_say_where_each_token_came_from():
    assert origins_of("abcd", "abcde", 5, 4, 2) == ("mmmmb", [(4, 4)])
    assert origins_of("Xbcd", "abcde", 5, 4, 2) == ("lmmmb", [(4, 4)])
    assert origins_of("aXcXe", "abcde", 2, 4, 2, unsure=()) == ("mc", [(4, 1)])


def test_origins_are_cut_where_the_answer_is():
    """The round's length is of what it decided, the origins are of what is left."""
    assert origins_of("abcdefgh", "abcdefgh", 2, 6, 3) == ("mm", [(5, 5)])


@pytest.mark.parametrize("name", CONFIGS)
def test_origins_are_the_counters_token_by_token(name):
    for result in decoder(CONFIGS[name], batch_size=4).generate(prompts(12), max_new_tokens=24):
        counts, origins = result.statistics, result.origins
        assert len(origins) == len(result.token_ids)
        found = [origins.count(character) for character in "mlcbp"]
        wanted = [counts.matched, counts.loose, counts.corrections, counts.bonuses, counts.plain]
        assert all(a <= b for a, b in zip(found, wanted, strict=True))
        assert sum(found) == sum(wanted) - counts.trimmed
        lens = result.round_lens
        assert len(lens) == counts.rounds
        assert sum(proposed for proposed, _ in lens) == counts.proposed
        assert sum(kept for _, kept in lens) == counts.matched + counts.loose
