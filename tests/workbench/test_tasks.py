"""What is asked of every method is what lm-eval would have asked of a model."""

import pytest
from lm_eval import simple_evaluate

from fly.errors import ConfigError, FLyError, RequestError
from fly.harness.requests import hash_document
from fly.tasks import TASKS_PATH
from fly.workbench.options import Options, make_plan
from fly.workbench.tasks import Tasks, load_tasks
from tests.workbench.tasks import EXACT, SCORED_ONLY, options, write_task

SEEDS = {"random_seed": 0, "numpy_random_seed": 1234, "torch_random_seed": 1234}


@pytest.fixture
def folder(tmp_path):
    write_task(tmp_path, "numbers", EXACT)
    write_task(tmp_path, "sampled", "repeats: 3" + EXACT, num_items=2)
    write_task(tmp_path, "scored", SCORED_ONLY)
    return tmp_path


def asked(lm, names, folder, **more):
    return load_tasks(options(names, folder, **more)).requests(lm)


def seen_by_model(lm, names, folder, monkeypatch, **more):
    """(task, prompt, arguments) of all requests that lm-eval gives the model, copies included."""
    seen = []

    def answer(requests, **_):
        seen.extend((each.task_name, each.doc_id, *each.args) for each in requests)
        return ["0"] * len(requests)

    monkeypatch.setattr(lm, "generate_until", answer)
    simple_evaluate(model=lm, bootstrap_iters=0, **options(names, folder, **more))
    return seen


CASES = {
    "all": {},
    "limit": {"limit": 2},
    "share": {"limit": 0.5},
    "samples": {"samples": {"numbers": [4, 1], "sampled": [1]}},
    "shots": {"num_fewshot": 1},
    "gen_kwargs": {"gen_kwargs": {"max_gen_toks": 3}},
}


@pytest.mark.parametrize("more", CASES.values(), ids=CASES)
def test_requests_are_those_of_lm_eval(more, lm, folder, monkeypatch):
    names = ["numbers", "sampled"]
    found = asked(lm, names, folder, **SEEDS, **more)
    ours = [(one.task, one.instance.doc_id, *one.instance.args) for one in found]
    assert ours == seen_by_model(lm, names, folder, monkeypatch, **SEEDS, **more)
    assert ours


def test_built_requests_are_not_those_of_other_arguments(lm, folder, monkeypatch, tmp_path):
    """lm-eval names its files after neither."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "built"))
    for tokens in (3, 5):
        more = {"cache_requests": True, "gen_kwargs": {"max_gen_toks": tokens}}
        found = asked(lm, ["numbers"], folder, num_fewshot=0, **SEEDS, **more)
        assert {one.instance.args[1]["max_gen_toks"] for one in found} == {tokens}


WRONG = {"until": 5, "temperature": float("nan"), "top_p": 2, "max_gen_toks": "x"}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_arguments_are_found_without_a_model(folder, name):
    with pytest.raises(RequestError, match=f"task 'numbers': {name} is "):
        load_tasks(options(["numbers"], folder, gen_kwargs={name: WRONG[name]}))


def test_the_model_is_not_called_and_left_as_it_was(lm, folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("called")

    monkeypatch.setattr(lm, "generate_until", refuse)
    asked(lm, ["numbers"], folder)
    assert lm.generate_until is refuse


def test_repeats_are_told_apart(lm, folder):
    found = asked(lm, ["sampled"], folder)
    assert [one.key for one in found] == [
        ("sampled", doc, 0, copy) for doc in (0, 1) for copy in (0, 1, 2)
    ]
    assert len({one.seed for one in found}) == 6
    assert [one.seed for one in found] == [one.seed for one in asked(lm, ["sampled"], folder)]
    assert [one.doc_hash for one in found[::3]] == [
        hash_document(one.instance.doc) for one in found[::3]
    ]


def test_another_seed_draws_otherwise(lm, folder):
    one, other = (
        [each.seed for each in asked(lm, ["numbers"], folder, torch_random_seed=seed)]
        for seed in (1, 2)
    )
    assert one != other


def test_a_task_without_generation(folder):
    with pytest.raises(ConfigError, match="task 'scored' asks for loglikelihood, not for generat"):
        load_tasks(options(["numbers", "scored"], folder))


@pytest.mark.parametrize("name", ["predict_only", "use_cache"])
def test_options_that_do_not_go_with_a_comparison(name, folder):
    with pytest.raises(ConfigError, match=f"--{name} does not go with a comparison") as caught:
        load_tasks(options(["numbers"], folder, **{name: True}))
    assert caught.value.fix.startswith("leave it out")


def test_programs_have_to_be_confirmed_and_permitted(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    asking = options(["fly_demo_code"], TASKS_PATH)
    with pytest.raises(ConfigError, match="'fly_demo_code' runs programs that the model") as caught:
        load_tasks(asking)
    assert "--confirm_run_unsafe_code" in caught.value.fix
    with pytest.raises(ConfigError, match="HF_ALLOW_CODE_EVAL is not 1"):
        load_tasks({**asking, "confirm_run_unsafe_code": True})
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    found = load_tasks({**asking, "confirm_run_unsafe_code": True})
    assert list(found.by_name) == ["fly_demo_code"]


def test_a_group_is_its_tasks(monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    found = load_tasks(options(["fly_demo"], TASKS_PATH, confirm_run_unsafe_code=True))
    assert sorted(found.by_name) == ["fly_demo_code", "fly_demo_math"]


@pytest.mark.parametrize("limit", [0, 0.0])
def test_a_limit_that_leaves_nothing(limit, lm, folder):
    with pytest.raises(FLyError, match="leaves no items") as caught:
        asked(lm, ["numbers"], folder, limit=limit)
    assert "--limit" in caught.value.fix


def test_temperatures_are_known_before_a_model_is(folder):
    names = ["numbers", "sampled"]
    assert load_tasks(options(names, folder)).temperatures(0.9) == dict.fromkeys(names, 0.0)
    drawn = {"gen_kwargs": {"do_sample": True, "temperature": 0.8}}
    assert load_tasks(options(names, folder, **drawn)).temperatures(0.0)["numbers"] == 0.8
    left_open = {"gen_kwargs": {"do_sample": None}}
    assert load_tasks(options(names, folder, **left_open)).temperatures(0.3)["numbers"] == 0.3


@pytest.mark.parametrize("is_known", [True, False], ids=["in the task", "in its requests alone"])
def test_a_method_that_does_not_fit_a_tasks_temperature(lm, pair, folder, monkeypatch, is_known):
    model_args = {"config_path": str(pair.config), "device": "cpu", "temperature": 0.7}
    asked = options(["numbers"], folder)
    plan = make_plan(Options(model_args=model_args, harness=asked, methods=["native", "block"]))
    if not is_known:
        monkeypatch.setattr(Tasks, "temperatures", lambda *_: {})
    with pytest.raises(
        ConfigError, match="--methods block: acceptance is 'block', which"
    ) as caught:
        plan.read_requests(lm, plan.load_tasks())
    asker = "in task 'numbers'" if is_known else "in a request of task 'numbers'"
    assert str(caught.value).partition("\n")[0].endswith(asker)


def test_no_task_at_all(folder):
    with pytest.raises(ConfigError, match="no task"):
        load_tasks(options([], folder))


def test_an_unknown_task(folder):
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        load_tasks(options(["nubmers"], folder))
