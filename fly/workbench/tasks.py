"""Tasks and their requests, built by lm-eval's own `simple_evaluate`.  It is stopped where it would
call the model.  Two steps, so that a wrong task is found before a model is loaded: `load_tasks`,
then `Tasks.requests`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM

from fly.errors import ConfigError, RequestError
from fly.harness.gen_kwargs import GenerationArguments, wanted_temperature
from fly.harness.patches import mended, replaced
from fly.harness.records import RequestRecord
from fly.harness.requests import draw_seed, hash_document, number_copies
from fly.registry import did_you_mean
from fly.tasks.unsafe import check_unsafe

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    from fly.engine import Request, Result
    from fly.harness.requests import Prepared

_GENERATION = "generate_until"
# Of simple_evaluate's options, those that a workload cannot have, each with the way out.
_REFUSED = {
    "use_cache": "leave it out: every finished answer is kept, and --resume goes on from there",
    "predict_only": "leave it out: without scores there is nothing to compare",
}


Key = tuple[str, int | None, int, int]  # task, document, index of the request, copy


@dataclass(frozen=True, eq=False)
class Asked:
    """One answer that is wanted: a copy of one request of a document."""

    task: str
    instance: Instance
    copy: int  # among the task's repeats of the request
    seed: int  # of its draws
    doc_hash: str | None
    prepared: Prepared | None = None  # once a model's tokenizer has read it

    @property
    def request(self) -> Request:
        """As the engine takes it."""
        assert self.prepared is not None
        return self.prepared.request

    @property
    def key(self) -> Key:
        """What distinguishes it from all others of the workload."""
        return self.task, self.instance.doc_id, self.instance.idx, self.copy

    def record(self, result: Result) -> RequestRecord:
        """What became of it."""
        return RequestRecord(
            task=self.task,
            doc_id=self.instance.doc_id,
            doc_hash=self.doc_hash,
            idx=self.instance.idx,
            copy=self.copy,
            finish_reason=result.finish_reason,
            num_tokens=len(result.token_ids),
            statistics=result.statistics,
        )


@dataclass(frozen=True)
class Tasks:
    """lm-eval's tasks by name, and the arguments that its `evaluate` would have got with them."""

    by_name: Mapping[str, Task]
    evaluate: Mapping[str, Any] = field(repr=False)

    def temperatures(self, configured: float) -> dict[str, float]:
        """The temperature that each task asks for; `configured` holds where it leaves that open."""
        return {
            name: wanted_temperature(_gen_kwargs(task), configured, f"task {name!r}")
            for name, task in self.by_name.items()
        }

    def requests(self, lm: LM) -> list[Asked]:
        """Build every task's requests with the model's tokenizer and chat template.

        Raises:
            RequestError: there are none.
        """
        import lm_eval.evaluator

        def stop(*_: Any, **__: Any) -> Any:
            raise _Reached

        try:
            with replaced(lm, _GENERATION, stop), mended():
                lm_eval.evaluator.evaluate(lm=lm, **self.evaluate)
        except _Reached:
            pass
        except ValueError:
            # lm-eval's complaint about a task without documents is an assertion about its code.
            if all(task._instances for task in self.by_name.values()):
                raise
        asked = [one for name, task in self.by_name.items() for one in _asked(name, task)]
        if not asked:
            raise RequestError(
                f"no requests in {', '.join(self.by_name)}",
                fix="raise --limit, or name another task",
            )
        return asked


def load_tasks(options: Mapping[str, Any]) -> Tasks:
    """Load and configure the tasks as `simple_evaluate` does; no model is needed.

    Args:
        options: of `simple_evaluate`, without the model.

    Raises:
        ConfigError: no task or an unknown one is named, an option does not go with a comparison, a
            task asks for something other than generated text, or one that runs generated programs
            was not confirmed or permitted.
        MissingExtraError: what guards the programs of a task of ours is not installed.
        RequestError: a task's generation arguments are impossible.
    """
    import lm_eval.evaluator

    for name, way_out in _REFUSED.items():
        if options.get(name):
            raise ConfigError(f"--{name} does not go with a comparison", fix=way_out)
    _check_names(options)
    confirmed = bool(options.get("confirm_run_unsafe_code"))
    check_unsafe(options["tasks"], options.get("task_manager"), confirmed=confirmed)
    limit = options.get("limit")
    if limit is not None and not limit > 0:
        raise ConfigError(
            f"--limit is {limit:g}, which leaves no items",
            fix="give --limit a number of items, or a share of them between 0 and 1",
        )
    reached: dict[str, Any] = {}

    def evaluate(lm: LM, task_dict: Any, **rest: Any) -> Any:
        reached.update(rest, task_dict=task_dict)
        raise _Reached

    try:
        with replaced(lm_eval.evaluator, "evaluate", evaluate), mended():
            lm_eval.evaluator.simple_evaluate(model=_NoModel(), **options)
    except _Reached:
        pass
    tasks = dict(_flatten(reached["task_dict"]))
    _check(tasks, confirmed)
    return Tasks(tasks, reached)


def _check_names(options: Mapping[str, Any]) -> None:
    """lm-eval's own command line checks names, its function does not."""
    names, manager = options.get("tasks") or (), options.get("task_manager")
    if not names:
        raise ConfigError("no task is named", fix="add --tasks; `fly ls tasks` lists all")
    known = list(manager.all_tasks) if manager else []
    for name in names:
        if known and isinstance(name, str) and name not in known and not Path(name).exists():
            raise ConfigError(
                f"unknown task {name!r}{did_you_mean(name, known)}",
                fix="`fly ls tasks` lists all; --include_path adds a folder of tasks",
            )


class _Reached(Exception):
    """lm-eval came to where it is stopped."""


class _NoModel(LM):
    """Stands where a model would."""

    def generate_until(self, requests: Any) -> Any:
        """Not reached."""
        raise NotImplementedError

    loglikelihood = loglikelihood_rolling = generate_until


def _flatten(loaded: Any) -> list[tuple[str, Task]]:
    """Tasks by name: in lm-eval 0.4.13 under "tasks", before in a tree of groups."""
    if "tasks" in loaded and "groups" in loaded:
        return list(loaded["tasks"].items())
    found: list[tuple[str, Task]] = []
    for name, entry in loaded.items():
        if isinstance(entry, Mapping):
            found += _flatten(entry)
        else:
            found.append((str(name), entry))
    return found


def _check(tasks: Mapping[str, Task], unsafe_confirmed: bool) -> None:
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != _GENERATION:
            raise ConfigError(
                f"task {name!r} asks for {task.OUTPUT_TYPE}, not for generated text: every method "
                "of decoding gives it the same score",
                fix="name tasks that generate; `fly ls tasks` lists all",
            )
        GenerationArguments.read(_gen_kwargs(task), f"task {name!r}")
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(
                f"task {name!r} shows pictures, which this backend does not read",
                fix="name tasks of text alone",
            )
        if getattr(task, "UNSAFE_CODE", False) and not unsafe_confirmed:
            raise ConfigError(
                f"task {name!r} runs programs that the model has written",
                fix="say --confirm_run_unsafe_code if that may be done here",
            )


def _gen_kwargs(task: Task) -> Mapping[str, Any]:
    return task.config.generation_kwargs or {}


def _asked(name: str, task: Task) -> list[Asked]:
    instances: Sequence[Instance] = [
        instance for instance in task._instances or () for _ in range(instance.repeats or 1)
    ]
    base = torch.initial_seed()  # what lm-eval's --seed gave torch
    copies = number_copies(instances)
    return [
        Asked(name, instance, copy, draw_seed(instance, copy, base), hash_document(instance.doc))
        for instance, copy in zip(instances, copies, strict=True)
    ]
