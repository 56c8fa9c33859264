"""`use_cache` from Python, where lm-eval's own cache stands before the model: the journal is
resumed with its statistics, and no answer of another configuration is given."""

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from sqlitedict import SqliteDict

from fly.harness import FLyLM
from fly.harness.patches import keep_apart


@pytest.fixture
def evaluate(pair, tasks, tmp_path):
    """Evaluate `toy_text` with a new model; returns samples' answers and the results block.  As
    `evaluate.text` with a given model and cache, for the answers alone."""

    def text(lm, cache, names=("toy_text",)):
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(names),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            use_cache=cache and str(tmp_path / cache),
        )
        return [sample["resps"] for sample in results["samples"][names[0]]]

    def run(names=("toy_text",), **settings):
        lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2, **settings)
        answers = text(lm, "cache", names)
        return answers, lm.speculative_decoding()["overall"]

    run.text = text
    return run


def test_second_run_is_resumed_with_its_statistics(evaluate):
    answers, first = evaluate()
    again, second = evaluate()
    assert again == answers
    assert (first["requests"], first["resumed"]) == (5, 0)
    assert (second["requests"], second["resumed"]) == (5, 5)
    assert second["counters"] == first["counters"]


def test_log_likelihoods_are_of_the_model_that_is_asked(evaluate, pair, monkeypatch):
    """The draft's folder as a target of lm-eval's own backend, on the same path before and after
    ours: nobody is given the other's, nor computes its own again."""
    computed = []
    original = HFLM._loglikelihood_tokens

    def counting(self, requests, *args, **kwargs):
        computed.append(len(requests))
        return original(self, requests, *args, **kwargs)

    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", counting)
    names = ("toy_choice",)

    def theirs(cache):
        return evaluate.text(HFLM(pretrained=str(pair.draft), device="cpu"), cache, names)

    ours, _ = evaluate(names)
    own = theirs(None)
    assert ours != own
    assert theirs("cache") == own
    before = sum(computed)
    assert evaluate(names)[0] == ours
    assert theirs("cache") == own
    assert sum(computed) == before


def test_each_answer_is_saved_when_it_finishes(pair, tmp_path, monkeypatch):
    """Killed right after the first, the journal has it, though its batch was not done."""
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=3)
    cached = lm_eval.api.model.CachingLM(lm, str(tmp_path / "cache_rank0.db"))
    requests = [
        Instance("generate_until", {}, ("tell", {"until": [], "max_gen_toks": n}), 0, ("t", n, 1))
        for n in (40, 3, 60)
    ]
    unfinished = []

    def stop(progress):
        unfinished.extend(row.finish_reason for row in lm.decoder._models.owner.rows)
        raise KeyboardInterrupt

    monkeypatch.setattr("fly.harness.lm.DecodingProgress.advance", stop)
    with pytest.raises(KeyboardInterrupt):
        cached.generate_until(requests)
    monkeypatch.undo()
    assert unfinished == [None, None]
    assert [record.doc_id for record in lm._records] == [3]
    answers = cached.generate_until(requests)
    again = [(record.doc_id, record.resumed) for record in lm._records]
    assert sorted(again) == [(3, True), (40, False), (60, False)]
    assert all(answers)


def test_sampled_requests_resume(pair, tmp_path, monkeypatch):
    """What is drawn hangs on the request alone, so a resumed run draws what a whole one does."""
    gen_kwargs = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    given = [Instance("generate_until", {}, (f"p{n}", gen_kwargs), 0, ("t", n, 2)) for n in (0, 1)]
    requests = [one for one in given for _ in range(2)]

    def decode(seed, cache=None):
        lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2)
        torch.manual_seed(seed)
        if cache is not None:
            cached = lm_eval.api.model.CachingLM(lm, str(tmp_path / cache))
            return lm, cached.generate_until(requests)
        return lm, lm.generate_until(requests, disable_tqdm=True)

    def stop(progress):
        raise KeyboardInterrupt

    _, whole = decode(1)
    assert len(set(whole)) == len(requests)
    with monkeypatch.context() as patch:
        patch.setattr("fly.harness.lm.DecodingProgress.advance", stop)
        with pytest.raises(KeyboardInterrupt):
            decode(1, "cache_rank0.db")
    lm, resumed = decode(1, "cache_rank0.db")
    assert resumed == whole
    assert sum(record.resumed for record in lm._records) == 1
    lm, other = decode(2, "cache_rank0.db")
    assert not set(other) & set(whole)
    assert not any(record.resumed for record in lm._records)


def test_hf_after_us_on_the_same_path(evaluate, pair, tmp_path):
    """lm-eval's own backend looks into the same file; its answers are none of ours."""
    loose = {"acceptance": "fly", "abla_no_window": True, "entropy_thre": 0.02}
    ours, _ = evaluate(**loose)
    theirs = evaluate.text(HFLM(pretrained=str(pair.target), device="cpu"), "cache")
    assert theirs == evaluate.text(HFLM(pretrained=str(pair.target), device="cpu"), None)
    assert theirs != ours
    again, block = evaluate(**loose)
    assert again == ours
    assert block["resumed"] == 5


def test_journal_ends_with_the_evaluation(evaluate, pair, tmp_path):
    lm = FLyLM(config_path=str(pair.config), device="cpu", batch_size=2)
    first = evaluate.text(lm, "cache")
    counted = []
    for cache in (None, "cache", "cache"):
        assert evaluate.text(lm, cache) == first
        overall = lm.speculative_decoding()["overall"]
        counted.append((overall["requests"], overall["resumed"]))
    assert counted == [(5, 0), (5, 5), (5, 5)]


NAMES = {
    "lm-eval's": ("cache_rank0.db", "cache", 0),
    "another rank": ("folder/cache_rank3.db", "folder/cache", 3),
    "a folder": ("folder/_rank0.db", "folder/", 0),
    "rank in the name": ("x_rank1.db_rank0.db", "x_rank1.db", 0),
    "not lm-eval's": ("other.db", "other.db", 0),
}


@pytest.mark.parametrize(("file", "prefix", "rank"), NAMES.values(), ids=NAMES)
def test_journal_lies_beside_lm_evals_file(tmp_path, file, prefix, rank):
    (tmp_path / "folder").mkdir()
    with SqliteDict(str(tmp_path / file), autocommit=True) as database:
        assert keep_apart(database, "abc") == (f"{tmp_path}/{prefix}", rank)


def test_only_scores_of_one_configuration_are_seen(tmp_path):
    with SqliteDict(str(tmp_path / "x_rank0.db"), autocommit=True) as database:
        database.update({"text": "another's", "score": (-1.5, True)})
        keep_apart(database, "abc")
        assert "score" not in database
        database["text"], database["score"] = "an answer", (-2.5, False)
        assert "text" not in database
        assert database["score"] == (-2.5, False)
        keep_apart(database, "xyz")
        assert "score" not in database
    with SqliteDict(str(tmp_path / "x_rank0.db")) as database:
        assert dict(database) == {
            "text": "another's",
            "score": (-1.5, True),
            "abc score": (-2.5, False),
        }
