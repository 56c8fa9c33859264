"""`import fly.harness` adds one model to lm-eval and takes none away, in whatever order."""

import subprocess
import sys

import pytest

from tests.crossing import mostly_slow

ORDERS = {
    "fly first": "import fly.harness, lm_eval.models",
    "lm-eval first": "import lm_eval.models, fly.harness",
    "lm-eval's class first": "import lm_eval.models.huggingface, fly.harness",
    "our class first": "import fly.harness.lm, lm_eval.models.huggingface",
}
CHECK = """
from lm_eval.api.registry import get_model, model_registry
from lm_eval.models import MODEL_MAPPING
import fly, fly.harness
from lm_eval.models.huggingface import HFLM
assert [get_model(name) for name in ("hf", "hf-auto", "huggingface")] == [HFLM] * 3
assert get_model("fly") is fly.harness.FLyLM is fly.FLyLM
assert set(model_registry.keys()) == {*MODEL_MAPPING, "fly"}
"""


@pytest.mark.parametrize("order", mostly_slow(ORDERS.values()), ids=ORDERS)
def test_registers_in_any_order(order):
    subprocess.run([sys.executable, "-c", order + CHECK], check=True)


def test_import_brings_no_torch():
    code = "import sys, fly.harness; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute():
    import fly.harness

    with pytest.raises(AttributeError, match="FlyLM"):
        _ = fly.harness.FlyLM
