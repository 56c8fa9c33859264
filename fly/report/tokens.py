"""Answers in the form that the page's script reads.  Columns of numbers into one list of pieces, so
that hundreds of answers of hundreds of tokens stay small and open at once.  Keys are short because
they are repeated; docs/formats.md leaves them out, since only the page uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from fly.formats.answers import ORIGINS, Answer, Mismatch
from fly.formats.comparison import Item

TARGET = "target"
_SHARED_PROMPT = 200  # characters: a shorter common beginning is not worth a key
_MISMATCH_DIGITS = 4
# A script element ends at the first "</script", and JavaScript once ended lines at U+2028.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")

Place = tuple[str, int | None, str | None]


def to_script(value: object) -> str:
    """JSON that can stand inside a script element and be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def payload(
    answers: Sequence[Answer],
    items: Sequence[Item],
    windows: dict[str, int],
    lower_is_better: frozenset[str],
    target: str = TARGET,
) -> dict[str, Any]:
    """Everything the token view shows.

    Args:
        answers: of all methods and tasks.
        items: their scores; answers without an item are shown without scores.
        windows: by method, the tokens that were inspected after a loose one.
        lower_is_better: tasks whose score is an error.
        target: the method whose answers the others are held against.
    """
    pieces: dict[str, int] = {}
    methods = list(dict.fromkeys(answer.method for answer in answers))
    methods.sort(key=lambda name: name == target)  # the others first, in the order met
    tasks = list(dict.fromkeys(answer.task for answer in answers))
    shared = {task: _shared_prompt(answers, task) for task in tasks}
    found = _Scores(items)
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    # As the tasks ask, not as answers finish.
    asked = sorted(answers, key=lambda one: (tasks.index(one.task), *_place_in_task(one)))
    for number, answer in enumerate(asked):
        place = (answer.task, answer.doc_id, answer.doc_hash)
        # Without document nothing distinguishes two answers' places.
        rest = number if answer.doc_id is None and answer.doc_hash is None else 0
        key = (*place, answer.idx, answer.repeat, rest)
        if key not in groups:
            groups[key] = _group(answer, found.of(place), tasks, methods, shared, rest)
        groups[key]["a"][str(methods.index(answer.method))] = _answer(answer, pieces)
    return {
        "tasks": tasks,
        "shared": [shared[task] for task in tasks],
        "lower": [task in lower_is_better for task in tasks],
        "methods": methods,
        "target": methods.index(target) if target in methods else None,
        "windows": [windows.get(name) for name in methods],
        "origins": ORIGINS,
        "items": list(groups.values()),
        "pieces": list(pieces),
    }


def _place_in_task(answer: Answer) -> tuple[bool, int, int, int]:
    return answer.doc_id is None, answer.doc_id or 0, answer.idx, answer.repeat


class _Scores:
    """Items by document: the number goes before the hash, which equal documents share."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._exact = {(item.task, item.doc_id, item.doc_hash): item for item in items}
        self._by_hash = {(item.task, item.doc_hash): item for item in items if item.doc_hash}
        self._by_id = {(item.task, item.doc_id): item for item in items}

    def of(self, place: Place) -> Item | None:
        task, doc_id, doc_hash = place
        if doc_hash is None:
            return self._by_id.get((task, doc_id))
        return self._exact.get(place) or self._by_hash.get((task, doc_hash))


def _shared_prompt(answers: Sequence[Answer], task: str) -> str:
    """The beginning that all prompts of a task have in common: few-shot examples."""
    prompts = [answer.prompt for answer in answers if answer.task == task]
    first, last = min(prompts), max(prompts)  # what these share all between them share
    pairs = enumerate(zip(first, last, strict=False))
    length = next((at for at, (a, b) in pairs if a != b), min(len(first), len(last)))
    length = first.rfind("\n", 0, length) + 1  # whole lines, so that a search meets whole lines
    return first[:length] if length >= _SHARED_PROMPT else ""


def _group(
    answer: Answer,
    item: Item | None,
    tasks: Sequence[str],
    methods: Sequence[str],
    shared: dict[str, str],
    rest: int,
) -> dict[str, Any]:
    """A request with its answers, which are added to `a` by number of the method."""
    document = answer.doc_id if answer.doc_id is not None else answer.doc_hash or f"n{rest}"
    more = [answer.idx, answer.repeat] if answer.idx or answer.repeat else []
    scores = item.scores if item else {}
    return {
        "k": "/".join(str(part) for part in (answer.task, document, *more)),
        "t": tasks.index(answer.task),
        "h": answer.doc_hash,
        "p": answer.prompt[len(shared[answer.task]) :],
        "r": item.target_text if item else None,
        "s": {str(methods.index(name)): scores[name] for name in methods if name in scores},
        "d": {
            str(methods.index(name)): [gap.gap, int(gap.is_tie), gap.loose_at]
            for name, gap in (item.divergences if item else {}).items()
            if name in methods
        },
        "a": {},
    }


def _answer(answer: Answer, pieces: dict[str, int]) -> dict[str, Any]:
    def number(piece: str) -> int:
        return pieces.setdefault(piece, len(pieces))

    result: dict[str, Any] = {
        "i": [number(piece) for piece in answer.tokens],
        "o": answer.origins,
        "e": answer.finish_reason,
    }
    if "".join(answer.tokens) != answer.text:
        result["x"] = answer.text
    if answer.round_lens:
        result["l"] = [length for pair in _rounds_and_steps(answer) for length in pair]
    if answer.rounds is not None:
        result["m"] = [
            [start + mismatch.at, *_mismatch(mismatch, number)]
            for start, mismatch in _mismatches(answer)
            if start + mismatch.at < len(answer.tokens)
        ]
    return result


def _rounds_and_steps(answer: Answer) -> list[tuple[int, int]]:
    """Tokens proposed and kept by round; (0, 0) for a plain step, which `round_lens` leaves out."""
    rounds, left, start = [], iter(answer.round_lens), 0
    while start < len(answer.origins):
        pair = (0, 0) if answer.origins[start] == "p" else next(left, None)
        if pair is None:
            break
        rounds.append(pair)
        start += pair[1] + 1
    return rounds


def _mismatches(answer: Answer) -> list[tuple[int, Mismatch]]:
    """Mismatches and the answer's token at which their round began."""
    start, found = 0, []
    for one in answer.rounds or []:
        found += [(start, mismatch) for mismatch in one.mismatches]
        start += one.emitted
    return found


def _mismatch(mismatch: Mismatch, number: Any) -> list[Any]:
    figures = (mismatch.p_drafted, mismatch.p_preferred, mismatch.entropy)
    return [
        number(mismatch.drafted),
        number(mismatch.preferred),
        *(float(f"{figure:.{_MISMATCH_DIGITS}g}") for figure in figures),
        mismatch.reason,
    ]
