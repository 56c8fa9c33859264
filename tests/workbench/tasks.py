"""Tasks written into a folder: two filters, repeats, metrics that are no means, several forms."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

FORM = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {folder}/cache
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
output_type: generate_until
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, do_sample: false}}
"""
EXACT = """
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
# A number anywhere, or only behind "####"; the first of both.
TWO_FILTERS = (
    EXACT
    + """
filter_list:
  - name: strict
    filter:
      - function: regex
        regex_pattern: "#### ([0-9]+)"
      - function: take_first
  - name: flexible
    filter:
      - function: regex
        regex_pattern: "([0-9]+)"
      - function: take_first
"""
)
# A mean beside one that is none.
NO_MEAN = """
metric_list:
  - metric: bleu
    aggregation: bleu
    higher_is_better: true
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
ONLY_BLEU = """
metric_list:
  - metric: bleu
"""
SCORED_ONLY = """
output_type: loglikelihood
metric_list:
  - metric: acc
"""


def write_task(
    folder: Path,
    name: str,
    more: str,
    num_items: int = 6,
    answer: Callable[[int], str] = str,
) -> None:
    """Add a task whose answers are the numbers 0, 1, 2 and so on, or made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    items = [{"question": f"Item {n}, say:", "answer": answer(n)} for n in range(num_items)]
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    text = FORM.format(name=name, data=data, folder=folder) + more
    (folder / f"{name}.yaml").write_text(text)


def options(names: Sequence[str], folder: Path, **more: Any) -> Mapping[str, Any]:
    """Of simple_evaluate; lm-eval's own tasks are left out, since they take seconds to list."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return {"tasks": list(names), "task_manager": manager, **more}
