"""The writer of answers.jsonl (fly/formats/answers.py).  A line for every finished request, with
its rounds where they were recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fly.acceptance import Reason
from fly.engine import Result, RoundRecord, SpeculativeDecoder
from fly.errors import JournalError
from fly.formats.answers import Answer, Header
from fly.harness.journal import InUseError, LineFile, read_line, read_lines
from fly.harness.pieces import Pieces
from fly.harness.records import RequestRecord, to_json
from fly.settings import NO_DRAFTER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fly.config import Setup

AnswerKey = tuple[str, str, int | None, int, int]  # method, task, doc_id, idx, repeat

# Half a character of UTF-16, which Python's strings can hold and readers of JSON may refuse.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REASON_NAMES = {int(reason): reason.name.lower() for reason in Reason}


def method_name(decoder: SpeculativeDecoder) -> str:
    """The acceptance rule's name; "target" where nothing is proposed."""
    return "target" if decoder.served["drafter"] == NO_DRAFTER else decoder.config.setup.rule_name


def method_entry(decoder: SpeculativeDecoder) -> dict[str, Any]:
    """A method as the header describes it: its settings, whether its text is the target's own, and
    what its rule looks at."""
    settings: dict[str, Any] = to_json(decoder.config.to_dict())
    return settings | {"is_lossless": decoder.is_lossless} | rule_entry(decoder.config.setup)


def rule_entry(setup: Setup) -> dict[str, int]:
    """`window`, how many tokens after a loose one the rule inspects, and `lookahead`, how many it
    needs, the loose one included; both 0 where nothing is proposed.
    """
    if setup.is_plain:
        return {"window": 0, "lookahead": 0}
    rule = setup.rule
    inspected = getattr(rule, "inspected", max(0, rule.required_followers - 1))
    return {"window": inspected, "lookahead": rule.required_followers}


def to_answer(
    method: str, record: RequestRecord, prompt: str, text: str, result: Result, pieces: Pieces
) -> Answer:
    """A finished request as a line of the file.

    Args:
        method: its name in the header.
        record: which request it was.
        prompt: as the task asked.
        text: the answer as it is scored.
        result: as it was decoded.
        pieces: of the decoder's tokenizer.
    """
    ids = result.token_ids
    return Answer.model_validate(
        {
            "method": method,
            "task": record.task,
            "doc_id": record.doc_id,
            "doc_hash": record.doc_hash,
            "idx": record.idx,
            "repeat": record.copy,
            "prompt": LONE_SURROGATE.sub("\ufffd", prompt),
            "text": LONE_SURROGATE.sub("\ufffd", text),
            "token_ids": ids,
            "tokens": pieces.split(ids),
            "origins": result.origins,
            "round_lens": result.round_lens,
            "finish_reason": result.finish_reason,
            "statistics": result.statistics.to_dict(),
            "rounds": None if result.rounds is None else _rounds(result.rounds, len(ids), pieces),
        }
    )


def _rounds(records: Sequence[RoundRecord], num_tokens: int, pieces: Pieces) -> list[Any]:
    """The rounds of an answer of `num_tokens`; the last one's end may have been thrown away."""
    rounds = []
    for record in records:
        emitted = min(num_tokens, len(record.emitted_ids))
        num_tokens -= emitted
        mismatches = [
            {
                "at": each.place,
                "drafted": pieces.show(record.draft_ids[each.place]),
                "preferred": pieces.show(each.preferred_id),
                "p_drafted": _short(each.p_drafted),
                "p_preferred": _short(each.p_preferred),
                "entropy": _short(each.entropy),
                "reason": REASON_NAMES[record.reasons[each.place]],
            }
            for each in record.mismatches
        ]
        rounds.append(
            {
                "proposal": record.draft_ids,
                "kept": len(record.emitted_ids) - 1,
                "reasons": "".join(map(str, record.reasons)),
                "emitted": emitted,
                "mismatches": mismatches,
            }
        )
    return rounds


def _short(value: float) -> float:
    """Six digits: more are noise of the arithmetic."""
    return float(f"{value:.6g}")


class AnswerWriter:
    """`with AnswerWriter(...) as writer:` appends; a file of the same settings is gone on with."""

    def __init__(
        self,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        fingerprint: str,
        settings: Mapping[str, Any],
        methods: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: its folder is made if it is missing.
            tokenizer: the decoder's.
            fingerprint: stands for all that can change a text.
            settings: what it stands for, for people to read.
            methods: by name, all that will be written; `method_entry` makes one.
        """
        self.path = path
        self.finished: set[AnswerKey] = set()  # in the file
        self._lines = LineFile(path)
        self._pieces = Pieces(tokenizer)
        self._header = Header(
            fingerprint=fingerprint,
            settings=dict(settings),
            methods={name: dict(entry) for name, entry in methods.items()},
        )

    def __enter__(self) -> AnswerWriter:
        """Lock the file, drop a line that was being written when its process was killed, and read
        what is finished.

        Raises:
            JournalError: another process writes to it, it is damaged, of other settings, or cannot
                be written.
        """
        with writing(self.path):
            self._lines.open()
        try:
            with writing(self.path):
                lines, num_bytes = read_lines(self.path)
            self.finished = self._read(lines)
            with writing(self.path):
                self._lines.cut(num_bytes)
                if not lines:
                    self._lines.append(self._header.model_dump())
        except BaseException:
            self._lines.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, which unlocks it."""
        self._lines.close()

    def write(
        self, method: str, record: RequestRecord, prompt: str, text: str, result: Result
    ) -> None:
        """Append an answer; arguments as in `to_answer`.  It is there when this returns.

        Raises:
            JournalError: it cannot be written, for instance because the disk is full.
        """
        answer = to_answer(method, record, prompt, text, result, self._pieces)
        with writing(self.path):
            self._lines.append(answer.model_dump())
        self.finished.add((method, record.task, record.doc_id, record.idx, record.copy))

    def _read(self, lines: Sequence[bytes]) -> set[AnswerKey]:
        """The keys of the answers in the lines of the file."""
        finished: set[AnswerKey] = set()
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    self._check(Header.model_validate(read_line(line)))
                    continue
                value = read_line(line)
                method, task, idx = value["method"], value["task"], value["idx"]
                finished.add((method, task, value["doc_id"], idx, value["repeat"]))
            except (ValidationError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, JournalError):
                    raise
                raise JournalError(
                    f"{self.path}, line {number}: not a line of a file of answers "
                    f"({type(error).__name__})",
                    fix="delete that line, or the file to start anew",
                ) from error
        return finished

    def _check(self, header: Header) -> None:
        known = {name: header.methods.get(name) for name in self._header.methods}
        if header.fingerprint != self._header.fingerprint or known != self._header.methods:
            raise JournalError(
                f"{self.path}: answers of settings {header.fingerprint} and methods "
                f"{', '.join(header.methods)}, but this run has settings "
                f"{self._header.fingerprint} and methods {', '.join(self._header.methods)}",
                fix="name another output path",
            )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What can go wrong with a file of answers, in words for its user.

    Raises:
        JournalError: another process writes to it, or it cannot be read or written.
    """
    try:
        yield
    except InUseError as error:
        raise JournalError(
            f"{path}: another process is writing to this file of answers",
            fix="wait for that run, or give this one its own --output_path",
        ) from error
    except OSError as error:
        raise JournalError(
            f"{path}: cannot be written: {error}",
            fix="make room, or choose another --output_path; what is finished is kept: "
            "`fly compare` and `fly sweep` go on from it with --resume",
        ) from error
