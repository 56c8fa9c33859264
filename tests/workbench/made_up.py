"""Requests and answers without a model, and models that stand for a loaded pair."""

from types import SimpleNamespace

from lm_eval.api.instance import Instance

from fly.engine import Request, Result, Statistics
from fly.formats.answers import Answer
from fly.harness.requests import Prepared
from fly.workbench.tasks import Asked


def ready(task, doc, *, copy=0, ids=(5, 6), **asked):
    """One request of a document."""
    instance = Instance("generate_until", {"doc": doc}, (f"{task} {doc}", {}), 0, (task, doc, 1))
    request = Request(tuple(ids), **{"max_new_tokens": 4, "key": task, **asked})
    return Asked(task, instance, copy, doc, f"hash {doc}", Prepared(request, ()))


def result(ids=(7, 8), **more):
    """A finished request of so many tokens."""
    statistics = Statistics(requests=1, emitted=len(ids))
    return Result(list(ids), "".join(f"{n} " for n in ids), "length", statistics, **more)


def answer(method, asked, ids=(7, 8), origins="", **more):
    """What a file of answers holds of it."""
    return Answer(
        method=method,
        task=asked.task,
        doc_id=asked.instance.doc_id,
        doc_hash=asked.doc_hash,
        idx=asked.instance.idx,
        repeat=asked.copy,
        prompt="",
        text="",
        token_ids=list(ids),
        tokens=[f"<{n}>" for n in ids],
        origins=origins,
        round_lens=[],
        finish_reason="length",
        statistics={},
        **more,
    )


def loaded(model, tokenizer, **more):
    """A model as engines find it in an lm of lm-eval's."""
    more = {"draft": None, "draft_tokenizer": None, "end_ids": (), **more}
    return SimpleNamespace(model=model, tokenizer=tokenizer, **more)
