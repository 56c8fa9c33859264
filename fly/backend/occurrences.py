"""Which copy of its request an Instance in lm-eval's list is, and what it draws with.

lm-eval asks for `repeats` answers by naming the same Instance as often, and in runs of several
processes fills short lists up with more copies of their last one.  Copies within `repeats` are
requests of their own; those beyond are padding, which is neither decoded nor counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.utils import handle_non_serializable, hash_string

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def number_copies(instances: Sequence[Instance]) -> list[int]:
    """0, 1, 2, … for the Instances of one task, document and index, in the order of the list."""
    seen: Counter[tuple[str | None, int | None, int]] = Counter()
    numbers = []
    for instance in instances:
        name = (instance.task_name, instance.doc_id, instance.idx)
        numbers.append(seen[name])
        seen[name] += 1
    return numbers


def draw_seed(instance: Instance, copy: int, base: int) -> int:
    """The seed of a request's random draws: its own whatever else is decoded, in whichever process.

    Args:
        instance: its task, document and index count.
        copy: its number among the copies of the same Instance.
        base: the run's seed.
    """
    named = json.dumps([base, instance.task_name, instance.doc_id, instance.idx, copy])
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "big")


def hash_document(doc: Any) -> str | None:
    """The `doc_hash` of lm-eval's sample files, which unlike their `doc_id` is the same whatever
    part of a task is asked for; None for a document of which lm-eval cannot make a sample."""
    try:
        text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        return str(hash_string(text))
    except (TypeError, ValueError):
        return None


def find_originals(instances: Sequence[Instance]) -> list[int]:
    """For each place in the list the place whose answer belongs there: its own, or for padding that
    of the copy it repeats.

    Padding is told by identity: Instances that only look alike are requests of their own.
    """
    copies: dict[int, list[int]] = {}
    originals = []
    for place, instance in enumerate(instances):
        places = copies.setdefault(id(instance), [])
        places.append(place)
        # The copies take turns: the first padding repeats the first copy, and so on.
        originals.append(places[(len(places) - 1) % (instance.repeats or 1)])
    return originals
