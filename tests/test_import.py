"""What importing costs and changes.  Each case runs in a fresh interpreter."""

import subprocess
import sys

import pytest

import fly
from tests.crossing import mostly_slow

HEAVY = ("torch", "transformers", "lm_eval", "pydantic", "rich")


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_fly_is_light():
    run(
        "import sys, fly; fly.__version__; fly.FLyError;"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; assert not heavy, heavy"
    )


def test_import_config_needs_no_torch():
    run("import sys; from fly import FLyConfig; assert 'torch' not in sys.modules")


def test_settings_of_rules_need_no_torch():
    run(
        "import sys; from fly.acceptance import REFUSALS, LooseRule, Reason, Rule, rules;"
        "from fly.acceptance.loose import LooseRule as Same; assert Same is LooseRule;"
        "print([rules.get(name)() for name in ('native', 'fly')]);"
        "assert 'torch' not in sys.modules;"
        "from fly.acceptance import Decision, RejectionSampling, Scores, Verdict;"
        "assert Verdict is Decision"
    )


def test_all_is_sorted_complete_and_loads():
    assert fly.__all__ == sorted(fly.__all__)
    assert dir(fly) == fly.__all__
    for name in fly.__all__:
        assert getattr(fly, name) is not None
    assert fly.FLyConfig.__name__ == "FLyConfig"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fly' has no attribute 'FlyConfig'"):
        _ = fly.FlyConfig


ORDERS = {
    "backend first": "import fly.harness, lm_eval",
    "lm-eval first": "import lm_eval, lm_eval.models, fly.harness",
    "registry first": "import lm_eval.api.registry, fly.harness",
    "hf first": "from lm_eval.models.huggingface import HFLM; import fly.harness",
}


@pytest.mark.parametrize("imports", mostly_slow(ORDERS.values()), ids=ORDERS)
def test_backend_leaves_hf_intact(imports):
    run(
        f"{imports}\n"
        "from lm_eval.api.registry import get_model\n"
        "from lm_eval.models.huggingface import HFLM\n"
        "from fly import FLyLM\n"
        "for name in ('hf', 'hf-auto', 'huggingface'): assert get_model(name) is HFLM, name\n"
        "assert get_model('fly') is FLyLM and issubclass(FLyLM, HFLM)\n"
        "get_model('dummy')\n"
    )
