"""The README's Python examples run as they stand, from the repository's root."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
pytestmark = pytest.mark.docs
PRINTED = ["INCONCLUSIVE", "exact_match", "LlamaForCausalLM", "####"]


def test_there_are_four_examples() -> None:
    assert len(EXAMPLES) == len(PRINTED)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), list(zip(EXAMPLES, PRINTED, strict=True)))
@pytest.mark.usefixtures("hf_home")
def test_example_runs(code: str, printed: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert printed in run.stdout
