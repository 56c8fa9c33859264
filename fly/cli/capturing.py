"""lm-eval's flags for verbs of ours: `run`'s own command line is read, and what it would have
evaluated comes back instead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fly.backend.replacing import replaced
from fly.cli.harness import as_mapping, check_arguments, model_to_run, with_own_tasks
from fly.errors import ConfigError

# Options of simple_evaluate that a verb of ours decides or gives in another way.
_NOT_PASSED = frozenset(
    {"model", "model_args", "batch_size", "max_batch_size", "device"}
    | {"evaluation_tracker", "log_samples", "verbosity", "write_out"}
)


@dataclass
class Captured:
    """What lm-eval's command line asks for."""

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
        SystemExit: from lm-eval's parser, for flags that it does not know.
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
