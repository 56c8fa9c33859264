"""Methods of a comparison by name.  A name is an engine (`target`, `draft`, `hf_generate`,
`hf_assisted`, `hf_prompt_lookup`) or an acceptance rule and drafter, alone or together
(`ngram+native`), with settings after a colon (`fly:win_len=4,batch_size=32`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from fly.acceptance import rules
from fly.acceptance.fly import FlyRule
from fly.config import FLyConfig, drafter_keys, rule_keys
from fly.config.batch_size import read_batch_size
from fly.config.setup import GuardSettings
from fly.drafting import drafters
from fly.errors import ConfigError, FLyWarning
from fly.formats.comparison import Role
from fly.registry import did_you_mean
from fly.settings import NO_DRAFTER
from fly.workbench.engines import Engine, engines

if TYPE_CHECKING:
    from fly.harness import FLyLM

TARGET, NATIVE = "target", "native"
GENERATE = "hf_generate"

# Settings of the models and of the requests, which all methods share.
_SHARED = (
    *("target_model_path", "draft_model_path", "draft_dtype", "draft_device", "draft_revision"),
    *("temperature", "packed", "compile"),
)


@dataclass(frozen=True)
class Method:
    """One way of decoding."""

    name: str
    config: FLyConfig
    batch_size: int
    engine: type[Engine] = field(default_factory=lambda: engines.get(TARGET))
    role: Role = "method"
    stands_for: tuple[str, ...] = ()  # names asked for that come to the same, their rule overruled
    pins_length: bool = False  # its name gives spd_k, so that is what it drafts

    def open(self, models: FLyLM, *, trace: bool = False) -> Engine:
        """Its engine over loaded models; `trace` keeps every round's decisions."""
        return self.engine.open(models, self.config, self.batch_size, trace=trace)

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model has to be loaded."""
        return self.engine.needs_draft or (
            self.takes_setup and self.config.setup.traits.needs_model
        )

    @property
    def shares_ids(self) -> bool:
        """Whether it takes the draft's ids for the target's."""
        if not self.takes_setup:
            return self.engine.shares_ids
        traits = self.config.setup.traits
        return traits.needs_model and not traits.own_tokenizer

    @property
    def translates(self) -> bool:
        """Whether its drafter reads a draft model with another tokenizer."""
        return self.takes_setup and self.config.setup.traits.needs_model and not self.shares_ids

    @property
    def is_plain(self) -> bool:
        """The target token by token, in an engine of ours."""
        return self.takes_setup and self.config.setup.is_plain

    @property
    def takes_setup(self) -> bool:
        """Whether rule and drafter are the configuration's."""
        return self.engine.takes_setup

    @property
    def is_lossless(self) -> bool:
        """Whether the text is the target's own (sampled: its distribution)."""
        return not self.config.setup.is_loose if self.takes_setup else self.engine.is_lossless

    @property
    def is_candidate(self) -> bool:
        """Whether it is judged."""
        return self.engine.is_judged and not self.is_lossless

    @property
    def settings(self) -> dict[str, Any]:
        """Notes on it."""
        if not self.takes_setup:
            return dict(self.engine.options)
        setup = self.config.setup
        told: dict[str, Any] = {"drafter": setup.drafter.name}
        if setup.is_plain:
            return told
        told |= {"acceptance": setup.rule_name, "spd_k": self.config.spd_k}
        if setup.draft_length != "fixed":
            told["draft_length"] = setup.draft_length
        of_rule = () if setup.is_overruled else ("acceptance_settings",)
        for key in (*of_rule, "drafter_settings"):
            told |= {key: getattr(self.config, key)} if getattr(self.config, key) else {}
        rule = setup.fly_rule
        if rule is not None:
            told |= {"win_len": rule.window, "fly_variant": rule.variant}
            told |= {"entropy": rule.entropy, "gate": rule.threshold}
        return told

    def is_same_as(self, other: Method) -> bool:
        """Whether both come to the same rule with the same drafting at the same batch size, however
        they are written."""
        if self.name == other.name or not self.takes_setup:
            return self.name == other.name
        mine, theirs = (
            (each.engine, each.batch_size, each.config.setup.fingerprint())
            for each in (self, other)
        )
        return mine == theirs

    def check_temperature(self, temperature: float, asker: str) -> None:
        """Refuse a temperature that rule or drafter cannot decode at.

        Raises:
            ConfigError: `asker` wants such a one.
        """
        misfit = self.config.setup.misfit_at(temperature) if self.takes_setup else None
        if misfit is not None:
            kind, why = misfit
            raise ConfigError(
                f"--methods {self.name}: {why} in {asker}",
                fix=f"leave the method out, name another {kind}, or ask for another temperature "
                "by --gen_kwargs",
            )

    @property
    def told_stand_in(self) -> str:
        """Notes on the names that it stands for."""
        return (
            f"{', '.join(self.stands_for)}: counted as {self.name}, since what a drafter copies "
            "from the context is never loosened (loosen_copied)"
        )

    def at(self, batch_size: int) -> Method:
        """The same at another batch size, which its name then holds."""
        separator = "," if ":" in self.name else ":"
        name = f"{self.name}{separator}batch_size={batch_size}"
        return replace(self, name=name, batch_size=batch_size)

    def sized(self, name: str) -> Method | None:
        """The same at the batch size that its name holds; None for another method's name."""
        size = name.rpartition("batch_size=")[2]
        found = self.at(int(size)) if size.isdecimal() else self
        return found if found.name == name else None


def parse_methods(specs: Sequence[str], config: FLyConfig, batch_size: int) -> list[Method]:
    """Read the methods' names; the target itself is always the first.

    Args:
        specs: each a name or several with commas between; a comma may also stand between the
            settings of one method.
        config: what a method's name leaves open.
        batch_size: of the methods that name none.

    Raises:
        ConfigError: an unknown name, setting or value, an impossible combination, a method that is
            named twice, or one whose draft model is not named.

    Warns:
        FLyWarning: a method counts as native acceptance, since its drafter copies the context.
    """
    names = [name for spec in specs for name in _split(spec)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--methods names {twice!r} twice", fix="give one of them other settings")
    methods = _merged([parse_method(name, config, batch_size) for name in names])
    if not config.setup.is_overruled:  # else there was a warning
        for method in methods:
            if method.stands_for:
                warnings.warn(f"--methods {method.told_stand_in}", FLyWarning, stacklevel=2)
    if not any(method.name == TARGET for method in methods):
        methods.insert(0, parse_method(TARGET, config, batch_size))
    methods.sort(key=lambda method: method.name != TARGET)
    for method in methods:
        if method.needs_draft and method.config.draft_model_path is None:
            raise ConfigError(
                f"--methods {method.name}: needs a draft model, and none is named",
                fix="add pretrained=DRAFT to --model_args, or leave the method out",
            )
    return methods


def _merged(methods: Sequence[Method]) -> list[Method]:
    """Methods that came to be others by `_as_native` put together with those."""
    named = {
        (method.config, method.batch_size): method.name
        for method in methods
        if method.takes_setup and not method.stands_for
    }
    found: dict[str, Method] = {}
    stands_for: dict[str, list[str]] = {}
    for method in methods:
        name = method.name
        if method.stands_for:
            name = named.get((method.config, method.batch_size), name)
        stands_for.setdefault(name, []).extend(method.stands_for)
        if name == method.name:
            found.setdefault(name, method)
    return [replace(found[name], stands_for=tuple(stands_for[name])) for name in found]


def _split(spec: str) -> list[str]:
    """Names between commas; a part with "=" and no ":" is a further setting of the one before."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in spec.split(","))):
        if names and "=" in part and ":" not in part and ":" in names[-1]:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def parse_method(name: str, config: FLyConfig, batch_size: int) -> Method:
    """Read one method's name; see `parse_methods`."""
    base, _, rest = name.partition(":")
    settings = _settings(name, rest)
    where = f"--methods {name}"
    engine = engines.get(base if base in engines else TARGET)
    if settings and engine.max_rows == 1:
        raise ConfigError(
            f"{where}: has no setting {next(iter(settings))!r}",
            fix=f"leave it out: {base} decodes at batch 1 only",
        )
    shared = next((key for key in settings if key in _SHARED), None)
    if shared is not None:
        raise ConfigError(
            f"{where}: {shared} is the same for all methods", fix="give it in --model_args"
        )
    rows = read_batch_size(settings.pop("batch_size", batch_size))
    if isinstance(rows, str):
        raise ConfigError(
            f"{where}: batch_size is {rows!r}, which would differ from method to method",
            fix="give a number; the fastest one for plain decoding is looked for anyway",
        )
    if base in engines:
        overrides = drafter_keys(NO_DRAFTER) | rule_keys(NATIVE) | {"draft_length": "fixed"}
        if settings:
            raise ConfigError(
                f"{where}: has no setting {next(iter(settings))!r}", fix="it takes batch_size only"
            )
    else:
        overrides = _from_registries(base, where, config)
        if config.drafter == NO_DRAFTER and base in rules:
            overrides |= {"drafter": None}  # a rule without proposals would be the target
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = FLyConfig.load(None, config.to_dict() | overrides | settings, overrides_from=where)
    if own.setup.is_overruled:
        return _as_native(name, own, config, batch_size)
    # Else it was a warning of the configuration already.
    is_new = settings or own.setup.loosens_copies > config.setup.loosens_copies
    if is_new or base == config.asked_acceptance:
        for warning in caught:
            warnings.warn(warning.message, stacklevel=2)
    pinned = own.with_fixed_length() if "spd_k" in settings else own
    return Method(
        name=name,
        config=pinned,
        pins_length=pinned is not own,
        batch_size=min(rows, engine.max_rows or rows),
        engine=engine,
    )


def _as_native(name: str, own: FLyConfig, config: FLyConfig, batch_size: int) -> Method:
    """The method that one comes to whose rule is overruled, with settings of `own`: the same
    drafter with native acceptance."""
    base, _, rest = name.partition(":")
    settings = _settings(name, rest)
    native = "+".join([part for part in base.split("+") if part not in rules] + [NATIVE])
    guards = (each.name for each in fields(GuardSettings))
    of_rules = {*rule_keys(NATIVE), *guards, *FlyRule.official_keys}
    of_rules |= rules.settings_of(own.asked_acceptance).model_fields.keys()
    kept = [f"{key}={value}" for key, value in settings.items() if key not in of_rules]
    native += f":{','.join(kept)}" if kept else ""
    return replace(parse_method(native, config, batch_size), stands_for=(name,))


def _settings(name: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(
                f"--methods {name}: {part!r} is no setting",
                fix="write them as fly:win_len=4,entropy_thre=0.1",
            )
        if key.strip() in found:
            raise ConfigError(
                f"--methods {name}: gives {key.strip()!r} twice", fix="keep one of them"
            )
        found[key.strip()] = value.strip()
    return found


def _from_registries(base: str, where: str, config: FLyConfig) -> dict[str, Any]:
    """The settings that a rule's or drafter's name stands for, or a "drafter+rule"."""
    parts = base.split("+")
    known_rules, known_drafters = rules.names(), drafters.names()
    overrides: dict[str, Any] = {"use_sd": True}
    for part in parts:
        if part in known_rules and "acceptance" not in overrides:
            is_same = part == config.asked_acceptance
            overrides |= rule_keys(part, config.acceptance_settings if is_same else None)
        elif part in known_drafters and "drafter" not in overrides:
            is_same = part == config.drafter_name
            overrides |= drafter_keys(part, config.drafter_settings if is_same else None)
        elif part in known_rules or part in known_drafters:
            raise ConfigError(
                f"{where}: names two {'rules' if part in known_rules else 'drafters'}",
                fix="name one drafter and one rule, as in ngram+native",
            )
        else:
            known = [*engines, *known_rules, *known_drafters]
            raise ConfigError(
                f"{where}: unknown method {part!r}{did_you_mean(part, known)}",
                fix=f"choose among {', '.join(known)}; drafter and rule together as ngram+native",
            )
    return overrides
