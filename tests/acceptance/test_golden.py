"""Every recorded decision of the reference implementation at rule level, in padded batches of
mixed K.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fly.acceptance import Rule, Scores, leading_true
from tests.engine.test_golden import config_of
from tests.toy import Formula, formula, golden

Decision = tuple[dict[str, Any], dict[str, Any], np.ndarray]  # parameters, round, logits [K+1, V]
DEFAULTS = {"use_ngram": False, "max_ngram_size": 1, "num_ngram_pred_tokens": 1}


def decisions() -> Iterator[Decision]:
    """All rounds of all cases, then both tables."""
    for case in golden()["cases"]:
        target, history = formula(case["toy"], draft=False), list(case["prompt"])
        for recorded in case["rounds"]:
            yield case["params"], recorded, target_logits(target, history, recorded["draft"])
            history += recorded["emit"]
    for case in golden()["table"] + golden()["table_extra"]:
        target = formula(case["toy"], draft=False)
        logits = target_logits(target, case["prompt"], case["round"]["draft"])
        yield {**DEFAULTS, **case["params"]}, case["round"], logits


def target_logits(target: Formula, history: list[int], draft: list[int]) -> np.ndarray:
    return np.stack([target.logits([*history, *draft[:i]]) for i in range(len(draft) + 1)])


def test_every_recorded_decision_in_padded_batches() -> None:
    groups: dict[str, list[Decision]] = defaultdict(list)
    for params, recorded, logits in decisions():
        keys = ("W", "theta", "enable_fly", "abla_no_window")
        groups[str([params[key] for key in keys])].append((params, recorded, logits))
    checked = 0
    for group in groups.values():
        config = config_of(group[0][0])  # K is no setting of the rule
        rule = config.setup.rule
        for begin in range(0, len(group), 16):
            check_batch(rule, group[begin : begin + 16])
        checked += len(group)
    assert checked == 937 + 12 + 10


def check_batch(rule: Rule, batch: list[Decision]) -> None:
    k = max(len(recorded["draft"]) for _, recorded, _ in batch)
    vocab = max(logits.shape[1] for _, _, logits in batch)
    # Padding must not matter: proposed ids that the target would choose there.
    ids = torch.full((len(batch), k), 7)
    logits = torch.full((len(batch), k + 1, vocab), -1e9)
    logits[..., 7] = 9.0
    for row, (_, recorded, own) in enumerate(batch):
        n = len(recorded["draft"])
        ids[row, :n] = torch.tensor(recorded["draft"])
        logits[row, : n + 1] = -1e9
        logits[row, : n + 1, : own.shape[1]] = torch.from_numpy(own)
    lengths = torch.tensor([len(recorded["draft"]) for _, recorded, _ in batch])
    scores = Scores(logits, ids, lengths)
    verdict = rule.accept(scores)
    kept = leading_true(verdict.accepted)
    own_tokens = scores.choice.gather(1, kept[:, None])[:, 0]
    for row, (_, recorded, _) in enumerate(batch):
        n = int(lengths[row])
        assert bits(scores.native[row, :n]) == recorded["native"]
        assert bits(verdict.accepted[row, :n]) == recorded["final"]
        assert not verdict.accepted[row, n:].any()
        assert scores.choice[row, : n + 1].tolist() == recorded["target"]
        assert [*ids[row, : kept[row]].tolist(), int(own_tokens[row])] == recorded["emit"]


def bits(mask: torch.Tensor) -> str:
    return "".join("01"[bit] for bit in mask.int().tolist())
