"""What is mended in lm-eval: a process without documents, and files of built requests that do not
say what they were built of.  The command as a whole: tests/cli/test_requests_asked.py."""

from random import Random
from types import SimpleNamespace

import lm_eval.api.task
import pytest
from lm_eval.config.task import TaskConfig

from fly.errors import ConfigError, RequestError
from fly.harness.patches import check_processes, mended, named_apart


def task(num_docs=5, seed=1, **config):
    settings = TaskConfig(task="toy", generation_kwargs={"until": ["\n"]}, **config)
    return SimpleNamespace(
        config=settings,
        eval_docs=[{}] * num_docs,
        fewshot_rnd=Random(seed),
        dump_config=settings.to_dict,
    )


ENOUGH = {  # documents, options of build_all_requests, whether each process has one
    "one process": (1, {}, True),
    "as many": (4, {"world_size": 4}, True),
    "fewer": (3, {"world_size": 4}, False),
    "a limit": (9, {"world_size": 4, "limit": 2}, False),
    "samples": (9, {"world_size": 4, "samples": [1, 2]}, False),
    "a limit above all": (3, {"world_size": 2, "limit": 99}, True),
}


@pytest.mark.parametrize(("number", "options", "enough"), ENOUGH.values(), ids=ENOUGH)
def test_processes_without_documents(number, options, enough):
    if enough:
        check_processes(task(number), options)
        return
    with pytest.raises(ConfigError, match=f"but there are {options['world_size']} processes"):
        check_processes(task(number), options)


def names_of(one, options, monkeypatch):
    """What lm-eval's two functions are asked for by one name, in a task."""
    seen = []
    for name in ("load_from_cache", "save_to_cache"):
        monkeypatch.setattr(lm_eval.api.task, name, lambda file_name, **_: seen.append(file_name))
    with named_apart(one, {"cache_requests": True, **options}):
        lm_eval.api.task.load_from_cache(file_name="requests-toy", cache=True)
        lm_eval.api.task.save_to_cache(file_name="requests-toy", obj=[])
    assert len(set(seen)) == 1
    return seen[0]


def test_files_are_named_after_what_requests_are_built_of(monkeypatch):
    model = SimpleNamespace(tokenizer=SimpleNamespace(chat_template="T"), chat_template_args={})

    class Chat:
        tokenizer, chat_template_args = model.tokenizer, {"enable_thinking": True}

        def apply(self):
            """A template's."""

    drawn = task()
    drawn.config.generation_kwargs["temperature"] = 1.0
    others = [
        (drawn, {}),
        (task(repeats=3), {}),
        (task(doc_to_text="other"), {}),
        (task(seed=2), {}),
        (task(), {"samples": [1, 2]}),
        (task(), {"chat_template": Chat().apply}),
    ]
    base = names_of(task(), {}, monkeypatch)
    names = [base, *(names_of(one, options, monkeypatch) for one, options in others)]
    assert len(set(names)) == len(names)
    assert names_of(task(), {}, monkeypatch) == base


def test_nothing_is_renamed_where_nothing_is_kept():
    before = lm_eval.api.task.load_from_cache
    with named_apart(task(), {"cache_requests": False}):
        assert lm_eval.api.task.load_from_cache is before


def test_temperatures_of_tasks():
    with mended():
        given = {"until": ["\n"], "temperature": None}
        assert TaskConfig(task="toy", generation_kwargs=given).generation_kwargs == {
            "until": ["\n"]
        }
        with pytest.raises(RequestError, match="task 'toy': temperature is 'x'"):
            TaskConfig(task="toy", generation_kwargs={"temperature": "x"})
    with pytest.raises(TypeError):
        TaskConfig(task="toy", generation_kwargs={"temperature": None})
