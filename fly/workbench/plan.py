"""A checked comparison, with what it loads and opens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fly.config import FLyConfig, drafter_keys
from fly.errors import ConfigError, ConfigWarning
from fly.formats.answers import Header
from fly.harness.fingerprint import digest
from fly.harness.records import to_json
from fly.stats.margins import Margin
from fly.workbench.engines import Engine
from fly.workbench.local import shares_ids
from fly.workbench.methods import Method
from fly.workbench.store import Store, check_header, known_hardware
from fly.workbench.tasks import Asked

if TYPE_CHECKING:
    from fly.engine import Result
    from fly.formats.answers import Answer
    from fly.harness import FLyLM
    from fly.workbench.tasks import Tasks


@dataclass(frozen=True)
class Plan:
    """A checked comparison."""

    config: FLyConfig
    arguments: Mapping[str, Any]  # of FLyLM
    options: Mapping[str, Any]  # of lm-eval's simple_evaluate
    methods: Sequence[Method]  # the target is the first
    batch_size: int
    margin: Margin
    metric: str | None = None
    folder: Path | None = None
    resume: bool = False
    trace: bool = False
    command: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)  # settings in which runs differ
    more_methods: Sequence[Method] = ()  # decoded beside those that are compared

    @property
    def target(self) -> Method:
        """The reference, at the batch asked for."""
        return replace(self.methods[0], batch_size=self.batch_size)

    def load_tasks(self) -> Tasks:
        """The tasks, without a model.

        Raises:
            ConfigError: see `tasks.load_tasks` and `metrics.check_metrics`; or a method does not
                decode at a task's temperature.
        """
        from fly.workbench.metrics import check_metrics
        from fly.workbench.tasks import load_tasks

        tasks = load_tasks(self.options)
        check_metrics(tasks.by_name, self.metric)
        for task, temperature in tasks.temperatures(self.config.temperature).items():
            for method in [*self.methods, *self.more_methods]:
                method.check_temperature(temperature, f"task {task!r}")
        return tasks

    def load_models(self) -> FLyLM:
        """Both models, each once; the draft where one of the methods needs it.

        Raises:
            ConfigError: a method takes the draft's ids for the target's, and they are not.
        """
        from fly.harness import FLyLM

        methods = [*self.methods, *self.more_methods]
        drafting: dict[str, Any] = {}
        needs_draft = any(method.needs_draft for method in methods)
        if needs_draft and not self.config.setup.traits.needs_model:
            translates = self.config.dual_tok or any(method.translates for method in methods)
            drafting = drafter_keys("other_tokenizer" if translates else "model")
        template = self.options.get("apply_chat_template")
        if isinstance(template, str):
            drafting = drafting | {"chat_template_name": template}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)  # given when the plan was made
            lm = FLyLM(**(dict(self.arguments) | drafting | {"batch_size": self.batch_size}))
        for method in methods:
            check_tokenizers(method, lm)
        packed = known_hardware(self.folder).get("packed") if self.folder and self.resume else None
        if packed is not None:
            lm.resume_packed(packed)
        return lm

    def read_requests(self, lm: FLyLM, tasks: Tasks) -> list[Asked]:
        """All requests of all tasks, as the engine takes them.

        Raises:
            RequestError: there are no requests, or one is impossible.
        """
        asked = tasks.requests(lm)
        instances = [one.instance for one in asked]
        prepared = lm.reader().read(instances, [one.seed for one in asked])
        ready = [replace(one, prepared=two) for one, two in zip(asked, prepared, strict=True)]
        # A task may build its requests otherwise than its configuration has.
        for task, temperature in {(one.task, one.request.temperature) for one in ready}:
            for method in [*self.methods, *self.more_methods]:
                method.check_temperature(temperature, f"a request of task {task!r}")
        return ready

    @contextmanager
    def open_store(
        self, lm: FLyLM, engines: Mapping[str, Engine], ready: Sequence[Asked]
    ) -> Iterator[Store]:
        """The answers' file, in the output folder or in one that goes away after the block.

        Args:
            lm: reads answers.
            engines: by the method's name, the target's first.
            ready: what is asked.
        """
        from fly.harness.pieces import Pieces
        from fly.harness.tracing import rule_entry, to_answer, writing

        settings = self.settings(engines, ready) | dict(self.more)
        header = Header(
            fingerprint=digest(settings),
            settings=settings,
            methods={
                method.name: method.settings
                | {"is_lossless": method.is_lossless}
                | rule_entry(method.config.setup)
                for method in [*self.methods, *self.more_methods]
            },
        )
        reader, pieces = lm.reader(), Pieces(next(iter(engines.values())).tokenizer)

        def make(method: Method, one: Asked, result: Result) -> Answer:
            prompt = str(one.instance.args[0])
            assert one.prepared is not None
            text = reader.answer(one.prepared, result)
            return to_answer(method.name, one.record(result), prompt, text, result, pieces)

        with ExitStack() as stack:
            folder = self.folder or Path(stack.enter_context(TemporaryDirectory()))
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            yield stack.enter_context(Store(folder, header, make))

    @property
    def known_settings(self) -> dict[str, Any]:
        """Of `settings`, what is known before anything is loaded."""
        known = {
            "methods": {
                method.name: method.settings | {"config": method.config.fingerprint()}
                for method in self.methods
            },
            "batch_size": self.batch_size,
            "trace": self.trace,
            "margin": self.margin.share,  # a verdict is fixed before the run
            "metric": self.metric,
        }
        # Not where there are none: runs that were begun without this key go on.
        return known | ({"margin_points": points} if (points := self.margin.points) else {})

    def check_resumed(self) -> None:
        """Refuse to go on with a run that was started otherwise, as far as that is known before
        anything is loaded.

        Raises:
            JournalError: see `store.check_header`.
        """
        if self.folder is not None and self.resume:
            check_header(self.folder, self.known_settings | dict(self.more))

    def settings(self, engines: Mapping[str, Engine], ready: Sequence[Asked]) -> dict[str, Any]:
        """All that the answers and their times depend on."""
        target, *others = (engine.describe() for engine in engines.values())
        names = list(engines)[1:]
        differing = {name: own for name, own in zip(names, others, strict=True) if own != target}
        requests = [[*one.key, one.seed, asdict(one.request)] for one in ready]
        return {
            "models": target["models"],
            **self.known_settings,
            "hardware": target["hardware"],
            **({"engines": differing} if differing else {}),
            "requests": digest({"requests": to_json(requests)}),
            "num_requests": len(ready),
        }


def check_tokenizers(method: Method, lm: FLyLM) -> None:
    """Refuse a method that takes the draft's ids for the target's where they are not.

    Raises:
        ConfigError: it does.
    """
    if method.shares_ids and not shares_ids(lm):
        raise ConfigError(
            f"--methods {method.name}: takes the draft's ids for the target's, but their "
            "tokenizers differ",
            fix="leave it out, or take drafter 'other_tokenizer', as in other_tokenizer+native",
        )
