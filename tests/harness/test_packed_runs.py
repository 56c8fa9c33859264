"""A run keeps the products that it began to compute packed: results name them, `--use_cache` and
`--resume` take them up again, and log-likelihoods run packed as answers do."""

import json

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import fly.workbench
from fly.engine.model import packed, packing_gains
from fly.engine.model.packing_gains import LINES
from fly.harness import FLyLM
from tests.harness.test_lm import instances

pytestmark = pytest.mark.skipif(
    not packing_gains.is_available(), reason="this torch has no packed products"
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose measurement can be set, and which forgets it when asked."""
    monkeypatch.setattr(packed, "SMALLEST", 1)

    class Machine:
        gain, num_measured = 2.0, 0

        def forget(self):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{self.num_measured}"))

    found = Machine()

    def measure(weights):
        found.num_measured += 1
        return dict.fromkeys(LINES, found.gain)

    monkeypatch.setattr(packing_gains, "measure", measure)
    found.forget()
    return found


def make(pair, **options):
    return FLyLM(config_path=str(pair.config), device="cpu", batch_size=3, **options)


def evaluate(lm, tasks, folder, limit):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(
        lm, tasks=["toy_text"], task_manager=manager, limit=limit, use_cache=str(folder / "cache")
    )


def test_a_journal_keeps_the_choice(pair, tasks, tmp_path, machine):
    first = make(pair)
    evaluate(first, tasks, tmp_path, 2)
    choice = dict(first.packer.choice)
    assert choice
    assert all(lines == list(LINES) for lines in choice.values())
    [journal] = tmp_path.glob("cache_*.jsonl")
    assert json.loads(journal.read_text().splitlines()[0])["packed"] == choice
    machine.gain = 0.5
    machine.forget()
    num_measured = machine.num_measured
    second = make(pair)
    results = evaluate(second, tasks, tmp_path, 4)
    assert machine.num_measured == num_measured, "nothing is chosen in the middle of a run"
    assert second.packer.choice == choice
    block = results["config"]["speculative_decoding"]
    assert block["packed"]["target"]["lines"] == block["packed"]["target"]["lines"] | {
        name: list(LINES) for name in block["packed"]["target"]["lines"]
    }
    assert [record.resumed for record in second._records].count(True) == 2
    third = make(pair)
    evaluate(third, tasks, tmp_path / "other", 1)
    assert set(map(tuple, third.packer.choice.values())) == {()}, "another run measures anew"


def test_a_comparison_keeps_the_choice(pair, tasks, tmp_path, machine):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    def compare(**more):
        return fly.workbench.compare(
            {"config_path": str(pair.config), "device": "cpu"},
            ["toy_text"],
            methods=["native"],
            limit=3,
            batch_size=2,
            task_manager=manager,
            output_path=tmp_path / "out",
            **more,
        )

    compare()
    header = json.loads((tmp_path / "out" / "answers.jsonl").read_text().splitlines()[0])
    choice = header["settings"]["hardware"]["packed"]
    assert choice
    assert all(lines == list(LINES) for lines in choice.values())
    machine.gain = 0.5
    machine.forget()
    num_measured = machine.num_measured
    compare(resume=True)
    assert machine.num_measured == num_measured


def test_log_likelihoods_run_packed(pair, machine, monkeypatch):
    seen = []

    def counted(states, *rest):
        seen.append(states.shape)
        return packing_gains.packed_product(states, *rest)

    monkeypatch.setattr(packed, "packed_product", counted)
    asked = [Instance("loglikelihood", {}, ("one two", " three"), 0, ("toy", 0, 1))]
    lm, plain = make(pair), make(pair, packed="off")
    [(want, _)] = plain.loglikelihood(asked, disable_tqdm=True)
    assert not seen
    [(found, _)] = lm.loglikelihood(asked, disable_tqdm=True)
    assert seen
    assert found == pytest.approx(want, abs=1e-4)
    assert lm.model is lm._model, "lm-eval's own model is back in its place"
    before = lm.packer.view(lm.model, "target")
    texts = lm.generate_until(instances(["a", "b c"], until=[], max_gen_toks=8), True)
    assert lm.decoder.pair.target.view is before, "packed once for both"
    assert texts == plain.generate_until(instances(["a", "b c"], until=[], max_gen_toks=8), True)
