"""Names to classes, lazily, with the nearest name where there is none."""

import subprocess
import sys

import pytest

from fly.errors import ConfigError
from fly.registry import Registry, did_you_mean


def test_register_returns_the_class_unchanged():
    table: Registry[object] = Registry("rule")

    class Rule:
        pass

    assert table.register("strict")(Rule) is Rule
    assert table.get("strict") is Rule


def test_a_name_is_given_once():
    table: Registry[object] = Registry("rule")
    table.register("strict")(int)
    with pytest.raises(ValueError, match="rule 'strict' is already registered"):
        table.register("strict")(str)


def test_unknown_name_offers_the_nearest():
    table: Registry[object] = Registry("drafter", {"ngram": "a:B", "model": "a:C"})
    with pytest.raises(ConfigError) as caught:
        table.get("n-gram", where="demo.json")
    assert str(caught.value) == (
        "demo.json: unknown drafter 'n-gram'; did you mean 'ngram'?\n"
        "Fix: choose one of model, ngram"
    )


def test_lazy_entry_is_imported_when_asked_for():
    code = (
        "import sys; from fly.registry import Registry;"
        "table = Registry('x', {'fraction': 'fractions:Fraction'});"
        "assert table.names() == ['fraction'] and 'fractions' not in sys.modules;"
        "import_later = table.get('fraction');"
        "import fractions; assert import_later is fractions.Fraction is table.get('fraction');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_class_may_register_itself():
    table: Registry[object] = Registry("x", {"mine": f"{__name__}:Registered"})
    assert table.register("mine")(Registered) is Registered
    assert table.get("mine") is Registered


class Registered:
    """Stands for a class in a module of its own."""


NEAREST = {
    "typo": ("spdk", "; did you mean 'spd_k'?"),
    "case": ("WIN_LEN", "; did you mean 'win_len'?"),
    "far": ("zzz", ""),
}


@pytest.mark.parametrize(("word", "answer"), NEAREST.values(), ids=NEAREST)
def test_did_you_mean(word, answer):
    assert did_you_mean(word, ["spd_k", "win_len"]) == answer
