"""Patches of lm-eval's `run` command, for the length of a `with` block.  Wrapped and put back:
`EvaluatorConfig.from_cli`, where flags and `--config` files have just been merged;
`simple_evaluate` in its two places; `CachingLM`, while a model of ours is evaluated.  lm-eval's
registry of models is not changed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fly
from fly import places
from fly.cli import interrupts, launch, run
from fly.cli.run import check_trace, trace_path
from fly.cli.saving import ResultSaver
from fly.errors import ConfigError, ConfigWarning
from fly.execution import suspended
from fly.harness.arguments import ModelArguments
from fly.harness.patches import replaced
from fly.tasks.unsafe import check_unsafe

if TYPE_CHECKING:
    from fly.harness import FLyLM

_HF_NAMES = frozenset({"hf", "hf-auto", "huggingface"})
# Flags of lm-eval that reach the model as arguments, too.
_FLAGS = ("batch_size", "max_batch_size", "device")


def model_to_run(model: object, model_args: object) -> object:
    """`fly` where lm-eval's Hugging Face backend is given a `config_path`; any other model as it
    is."""
    if model in _HF_NAMES and "config_path" in as_mapping(model_args):
        return "fly"
    return model


def as_mapping(model_args: object) -> dict[str, Any]:
    """Model arguments as lm-eval holds them, a mapping or "key=value,key=value"."""
    if isinstance(model_args, str):
        from lm_eval.utils import simple_parse_args_string

        parsed: dict[str, Any] = simple_parse_args_string(model_args)
        return parsed
    return dict(model_args) if isinstance(model_args, dict) else {}


def with_own_tasks(include_path: str | Sequence[str] | None) -> list[str]:
    """Task folders for lm-eval: ours first, so that a user's task of the same name goes before
    it."""
    given = [include_path] if isinstance(include_path, str) else list(include_path or [])
    return [str(Path(fly.__file__).parent / "tasks"), *given]


def check_arguments(config: Any) -> None:
    """Refuse what can be known to be wrong; flags repeated among the model arguments count once,
    as the model arguments have it.

    Args:
        config: lm-eval's merged configuration, changed in place.
    """
    config.model_args = as_mapping(config.model_args)
    for name in _FLAGS:
        value = config.model_args.pop(name, None)
        if value is not None:
            setattr(config, name, value)
    if config.gen_kwargs:
        from fly.harness.gen_kwargs import GenerationArguments

        GenerationArguments.read(config.gen_kwargs, "--gen_kwargs")
    flags = {name: getattr(config, name) for name in _FLAGS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # the arguments are read again
        ModelArguments.split(flags | config.model_args)


def check_places(config: Any) -> None:
    """Try the places that results and caches go to; of several processes one does.

    Args:
        config: lm-eval's merged configuration.

    Raises:
        ConfigError: one of them cannot be written to.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if config.output_path:
        path = Path(config.output_path)
        # As lm-eval takes it: the file's name in one case, of a folder in the other.
        folder = path.parent if path.suffix == ".json" else path
        places.check_folder(folder, "--output_path", path)
    if config.use_cache:
        places.check_cache(str(config.use_cache))


def named_template(options: Mapping[str, Any]) -> dict[str, str]:
    """What `FLyLM` gets of `--apply_chat_template NAME`, which lm-eval keeps to itself."""
    name = options.get("apply_chat_template")
    return {"chat_template_name": name} if isinstance(name, str) else {}


class Harness:
    """`with Harness() as harness:` run lm-eval's command inside; then `harness.finish()`."""

    def __init__(self, *, own_program: bool = False, trace: bool = False) -> None:
        """Nothing is wrapped yet.  `own_program`: see `launch.start_processes`; `trace`: write
        answers with their rounds."""
        self._own_program = own_program
        self._is_tracing = trace
        self._output_path = ""
        self._stack = ExitStack()
        self._block: dict[str, Any] | None = None
        self._lm: FLyLM | None = None
        self._is_ours, self._cache_path = True, ""
        self._saving: ResultSaver | None = None

    def __enter__(self) -> Harness:
        """Wrap the reading of the command line; `simple_evaluate` follows when that has
        succeeded."""
        from lm_eval.config.evaluate_config import EvaluatorConfig

        original = EvaluatorConfig.from_cli

        def from_cli(namespace: Any) -> Any:
            return self._prepare(original(namespace))

        self._stack.enter_context(replaced(EvaluatorConfig, "from_cli", staticmethod(from_cli)))
        return self

    def __exit__(self, *_: object) -> None:
        """Put back every wrapped name, whatever happened."""
        self._stack.close()

    def finish(self) -> None:
        """Print the summary, if the run was ours and this process reports; its files are there.

        Raises:
            OutputError: not all of them, or not where they were asked for.
            JournalError: the trace could not be written to its end.
        """
        try:
            if self._block is not None:
                run.print_summary(self._block)
        finally:
            if self._saving is not None:
                self._saving.check(self._journal)
            if self._lm is not None and self._lm.trace_error is not None:
                raise self._lm.trace_error

    def kept(self) -> str:
        """What is kept of a run that was interrupted, in words."""
        if self._saving is not None and self._saving.is_done and self._output_path:
            return f"the results are in {self._output_path}"
        if not self._is_ours:
            cache = f"; lm-eval's cache is at {self._cache_path}" if self._cache_path else ""
            return f"lm-eval's own model was running, which keeps nothing of its own accord{cache}"
        if self._lm is None:
            return interrupts.NOTHING
        if not self._cache_path:
            return "nothing is kept without --use_cache PATH"
        return self._journal() or interrupts.NOTHING

    def _journal(self) -> str:
        """What the journal keeps, in words; empty where nothing is."""
        path = None if self._lm is None else getattr(self._lm.cache_hook, "journal_path", None)
        number, words = (0, "") if path is None else interrupts.in_journals(path)
        return words if number else ""

    def _prepare(self, config: Any) -> Any:
        """Check our arguments before processes, tasks or models are touched, start the processes
        left to us, add our tasks, and wrap `simple_evaluate`.

        `config` is lm-eval's merged configuration and is changed in place.
        """
        config.include_path = with_own_tasks(config.include_path)
        config.model = model_to_run(config.model, config.model_args)
        self._output_path = str(config.output_path or "")
        self._is_ours = config.model == "fly"
        self._cache_path = str(config.use_cache or "")
        if self._is_tracing:
            check_trace(config)
        check_places(config)
        if config.model == "fly":
            check_arguments(config)
            # For ours alone: processes of another model would not find each other.
            launch.start_processes(own_program=self._own_program)

        import lm_eval
        import lm_eval.evaluator

        original = lm_eval.evaluator.simple_evaluate

        def simple_evaluate(*args: Any, **options: Any) -> Any:
            if options.get("model") != "fly":
                return original(*args, **options)
            return self._evaluate(original, options)

        for owner in (lm_eval, lm_eval.evaluator):
            self._stack.enter_context(replaced(owner, "simple_evaluate", simple_evaluate))
        return config

    def _evaluate(self, original: Callable[..., Any], options: dict[str, Any]) -> Any:
        """`simple_evaluate` on a model of ours, labelled in the results as what it evaluates: the
        target."""
        import lm_eval.api.model

        from fly.harness import FLyLM
        from fly.harness.patches import generating_directly, mended

        predict_only = bool(options.get("predict_only"))
        check_unsafe(
            options["tasks"],
            options.get("task_manager"),
            confirmed=bool(options.get("confirm_run_unsafe_code")),
            predict_only=predict_only,
        )
        if predict_only:  # what is left runs nothing, but lm-eval asks all the same
            options = options | {"confirm_run_unsafe_code": True}
        arguments = as_mapping(options["model_args"])
        passed_on = {key: options.get(key) for key in _FLAGS}
        passed_on |= named_template(options)
        lm: FLyLM = FLyLM.create_from_arg_obj(arguments, passed_on)
        self._lm = lm
        if self._is_tracing:
            lm.trace_to(trace_path(self._output_path, lm.rank, lm.world_size))
        label = {"pretrained": lm.fly_config.target_model_path}
        caching = generating_directly(lm_eval.api.model.CachingLM)
        running = suspended() if predict_only else nullcontext()
        with replaced(lm_eval.api.model, "CachingLM", caching), mended(), running:
            results = original(**(options | {"model": lm, "model_args": arguments | label}))
        records = lm.gather_records()
        if results is None or records is None:
            return results
        results["config"] |= {"model": "fly", "model_args": arguments}
        del results["config"]["speculative_decoding"]  # one process's; the block has all
        results["speculative_decoding"] = self._block = lm.speculative_decoding(records)
        tracker = options.get("evaluation_tracker")
        if tracker is not None:
            tracker.general_config_tracker.model_source = "fly"
            log_requests = bool(options.get("log_samples") or predict_only)
            self._saving = ResultSaver(tracker, records, log_requests=log_requests)
        return results


# Options of simple_evaluate that a verb of ours decides or gives in another way.
_NOT_PASSED = frozenset(
    {"model", "model_args", "batch_size", "max_batch_size", "device"}
    | {"evaluation_tracker", "log_samples", "verbosity", "write_out"}
)


@dataclass
class Captured:
    """The request of lm-eval's command line."""

    model_args: dict[str, Any] = field(default_factory=dict)  # device among them
    batch_size: int | str | None = None
    output_path: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of simple_evaluate


def capture(arguments: Sequence[str], verb: str) -> Captured:
    """Read the flags of `fly run`, from the command line and from `--config` files.

    Args:
        arguments: without the verb and its own flags.
        verb: its name, for messages.

    Raises:
        ConfigError: a flag's value is wrong, or the model is not ours.
        SystemExit: from lm-eval's parser, for flags that it does not take.
    """
    import lm_eval
    import lm_eval.evaluator
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig

    found = Captured()
    original = EvaluatorConfig.from_cli

    def from_cli(namespace: Any) -> Any:
        config = original(namespace)
        config.include_path = with_own_tasks(config.include_path)
        if model_to_run(config.model, config.model_args) != "fly" and config.model != "fly":
            raise ConfigError(
                f"fly {verb}: --model {config.model} without a config_path among --model_args: "
                "no pair to decode with",
                fix="add config_path=FILE to --model_args; fly_config/ has some",
            )
        config.model = "fly"
        file = getattr(namespace, "config", None)
        in_file = EvaluatorConfig.load_yaml_config(file) if file else {}
        said = [as_mapping(config.model_args), in_file, vars(namespace)]
        says_batch = any(given.get("batch_size") is not None for given in said)
        check_arguments(config)
        found.batch_size = config.batch_size if says_batch else None
        found.model_args = as_mapping(config.model_args)
        if config.device is not None:
            found.model_args["device"] = config.device
        found.output_path = config.output_path
        return config

    def simple_evaluate(**options: Any) -> None:
        kept = {name: value for name, value in options.items() if name not in _NOT_PASSED}
        found.options.update(kept)

    cli = HarnessCLI()
    cli._subparsers.choices["run"].prog = f"fly {verb}"
    with ExitStack() as stack:
        stack.enter_context(replaced(EvaluatorConfig, "from_cli", staticmethod(from_cli)))
        for owner in (lm_eval, lm_eval.evaluator):
            stack.enter_context(replaced(owner, "simple_evaluate", simple_evaluate))
        parsed = cli._parser.parse_args(["run", *arguments])
        parsed.func(parsed)
    return found
