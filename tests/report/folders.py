"""Output folders as `fly compare`, `fly sweep` and `fly run --trace` write them, made up from a
seed: answers whose origins, rounds and mismatches agree with each other, and figures that could be
real.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fly.formats.answers import Answer, Header, Mismatch, Round
from fly.formats.comparison import (
    Acceptance,
    Comparison,
    Cost,
    Divergence,
    Item,
    MethodResult,
    Parts,
    Score,
    Shares,
    Speed,
    TaskResult,
    Texts,
)
from fly.formats.sweep import Point, Saving, Sweep
from fly.stats.records import Interval, Paired, Verdict

WORDS = [
    *("the", "of", "a", "to", "and", "in", "that", "is", "for", "it", "as", "was", "on", "with"),
    *("be", "by", "at", "from", "this", "each", "have", "so", "then", "there", "apples", "trains"),
    *("boxes", "total", "number", "half", "twice", "left", "price", "cost", "hours", "therefore"),
    *("we", "get", "remaining", "per", "day", "week", "miles", "pages", "red", "blue", "plus"),
]
K = 15
WINDOW = 5
METHODS = {"fly": {"window": WINDOW, "win_len": 6, "entropy_thre": 0.3}, "native": {}, "target": {}}
DATE = "2026-11-22T10-20-30.123456"


def piece(rng: random.Random) -> str:
    return rng.choice((f" {rng.choice(WORDS)}",) * 12 + (f" {rng.randrange(99)}", ".", ",", "\n"))


def target_tokens(rng: random.Random, length: int) -> list[str]:
    return [piece(rng) for _ in range(length)]


def drafted(rng: random.Random, own: Sequence[str], looseness: float, is_traced: bool) -> Any:
    """Tokens, origins, rounds of an answer that is the target's own but for loose tokens."""
    tokens: list[str] = []
    origins, lens, rounds = "", [], []
    while len(tokens) < len(own):
        start = len(tokens)
        kept = min(rng.choice((0, 2, 5, 9, 12, K)), len(own) - start - 1)
        mismatches, reasons = [], ""
        for at in range(kept):
            is_loose = rng.random() < looseness and at + WINDOW < kept and "2" not in reasons[-5:]
            tokens.append(piece(rng) if is_loose else own[start + at])
            reasons += "2" if is_loose else "1"
            if is_loose:
                mismatches.append(mismatch(rng, at, tokens[-1], own[start + at], "loose"))
        tokens.append(own[start + kept])
        origins += reasons.replace("1", "m").replace("2", "l") + ("b" if kept == K else "c")
        if kept < K:
            reasons += rng.choice("567") + "0" * (K - kept - 1)
            reason = {"5": "gate", "6": "boundary", "7": "window"}[reasons[kept]]
            mismatches.append(mismatch(rng, kept, piece(rng), own[start + kept], reason))
        lens.append((K, kept))
        rounds.append(
            Round(
                proposal=[rng.randrange(30_000) for _ in range(K)],
                kept=kept,
                reasons=reasons,
                emitted=kept + 1,
                mismatches=mismatches,
            )
        )
    return tokens, origins, lens, rounds if is_traced else None


def mismatch(rng: random.Random, at: int, had: str, preferred: str, reason: str) -> Mismatch:
    p = rng.uniform(0.3, 0.6)
    return Mismatch(
        at=at,
        drafted=had,
        preferred=preferred,
        p_drafted=p / 2,
        p_preferred=p,
        entropy=rng.uniform(0.3, 1.0),
        reason=reason,
    )


def answer(
    method: str,
    task: str,
    doc: int | None,
    prompt: str,
    made: Any,
    ids: dict[str, int],
    **more: Any,
) -> Answer:
    tokens, origins, lens, rounds = made
    record = {
        "method": method,
        "task": task,
        "doc_id": doc,
        "doc_hash": f"{task}-{doc}",
        "idx": 0,
        "repeat": 0,
        "prompt": prompt,
        "text": "".join(tokens),
        "token_ids": [ids.setdefault(token, len(ids)) for token in tokens],
        "tokens": tokens,
        "origins": origins,
        "round_lens": lens,
        "finish_reason": "stop",
        "statistics": {"seconds_draft": 0.2, "seconds_target": 0.5, "seconds_rest": 0.01},
        "rounds": rounds,
    }
    return Answer.model_validate(record | more)


def answers_of(
    task: str, num_items: int, num_tokens: int, *, methods: Sequence[str], is_traced: bool = True
) -> list[Answer]:
    rng = random.Random(task)
    ids: dict[str, int] = {}
    shots = "Question: How many apples are left?\nAnswer: 7\n\n" * 8
    found = []
    for doc in range(num_items):
        own = target_tokens(rng, num_tokens)
        question = "".join(target_tokens(rng, 40))
        prompt = f"{shots}Question {doc}:{question}?\nAnswer:"
        for method in methods:
            if method == "target":
                made: Any = (own, "p" * len(own), [(0, 0)] * len(own), None)
            elif method.startswith("hf"):
                made = (own, "", [], None)
            else:
                looseness = 0.06 if method.startswith("fly") else 0.0
                made = drafted(rng, own, looseness, is_traced)
            found.append(answer(method, task, doc, prompt, made, ids))
    return found


def items_of(answers: Sequence[Answer]) -> list[Item]:
    """Every seventh item is lost by fly, every eleventh gained."""
    by_doc: dict[tuple[str, int | None], dict[str, Answer]] = {}
    for one in answers:
        by_doc.setdefault((one.task, one.doc_id), {})[one.method] = one
    items = []
    for number, ((task, doc), found) in enumerate(by_doc.items()):
        scores = dict.fromkeys(found, 1.0)
        if "fly" in scores and number % 7 == 3:
            scores["fly"] = 0.0
        if number % 11 == 5:
            scores |= {name: 0.0 for name in found if name != "fly"}
        own, its = found.get("target"), found.get("fly")
        divergences = {}
        if own and its:
            at = next((i for i in range(len(its.tokens)) if own.tokens[i] != its.tokens[i]), None)
            if at is not None:
                divergences["fly"] = Divergence(
                    at=at,
                    token=its.tokens[at],
                    target_token=own.tokens[at],
                    gap=0.031,
                    is_tie=number % 2 == 0,
                    loose_at=at,
                    loose_token=its.tokens[at],
                )
        items.append(
            Item(
                task=task,
                doc_id=doc,
                doc_hash=f"{task}-{doc}",
                target_text=str(number),
                scores=scores,
                divergences=divergences,
            )
        )
    return items


def interval(estimate: float, reach: float, method: str = "paired blocks, bootstrap") -> Interval:
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach, method=method)


def shares(**changes: Any) -> Shares:
    """Of a round on a CPU."""
    kinds = "products", "attention", "vocabulary", "compiled", "dispatch"
    given: dict[str, Any] = {
        "target": Parts(**dict(zip(kinds, (0.41, 0.09, 0.04, 0.0, 0.22), strict=True))),
        "draft": Parts(**dict(zip(kinds, (0.05, 0.01, 0.012, 0.0, 0.108), strict=True))),
        "engine": Parts(**dict(zip(kinds, (0.0, 0.0, 0.02, 0.0, 0.04), strict=True))),
        "host_waits": 0.0,
        "round_s": 0.00714,
        "floor_s": 0.0034,
    }
    return Shares(**(given | changes))


PHASES = {"prefill": 3.1, "draft": 20.4, "target": 41.0, "acceptance": 1.2, "rest": 2.2}
VERDICTS = {
    "SAFE": "recovery 99.1 %, and at least 97.4 % at 95 % confidence: above the margin of 97 %.",
    "NOT SAFE": "recovery 91.0 %, and at most 94.2 % at 95 % confidence: below the margin of 97 %.",
    "INCONCLUSIVE": "recovery 97.3 %, between 95.1 % and 99.4 %: about 1,840 items would decide.",
}


def method_result(
    name: str, role: Any, factor: float, recovery: float, verdict: Any = None
) -> MethodResult:
    is_target, has_draft = role == "target", role == "method" and not name.startswith("hf")
    kept = [40, 60, 80, 120, 150, 180, 200, 190, 160, 150, 140, 120, 100, 90, 80, 400]
    positions = [0.96 - 0.03 * at * (2 - min(factor, 1.9)) for at in range(K)]
    return MethodResult(
        name=name,
        role=role,
        batch_size=8 if role == "control" else 16,
        settings=METHODS.get(name, {}),
        is_lossless=not name.startswith("fly"),
        score=Score(
            metric="exact_match",
            filter="strict-match",
            value=0.71 * recovery,
            stderr=0.0143,
            higher_is_better=True,
            num_items=1000,
        ),
        other_scores=[],
        paired=None
        if is_target
        else Paired(
            num_items=1000,
            gained=12,
            lost=19,
            mcnemar_p=0.281,
            difference=interval(-0.007, 0.012, "Tango"),
            recovery=interval(recovery, 0.013, "BCa bootstrap"),
        ),
        verdict=None
        if verdict is None
        else Verdict(
            verdict=verdict,
            p_safe=0.012,
            p_not_safe=0.98,
            items_needed=1840 if verdict == "INCONCLUSIVE" else None,
            explanation=VERDICTS[verdict],
        ),
        speed=Speed(
            tokens_per_s=412.3 * factor,
            seconds=68.0 / factor,
            num_blocks=24,
            vs_baseline=interval(factor * 0.93, 0.06),
            vs_target=None if is_target else interval(factor, 0.07),
            vs_native=None if is_target else interval(factor / 1.4, 0.05),
        ),
        acceptance=Acceptance(
            mean_acceptance_length=4.1 * factor,
            acceptance_rate=0.42 * factor,
            loose_share=0.021 if name.startswith("fly") else 0.0,
            rounds=4210,
            by_position=positions,
            kept_per_round=kept,
        )
        if has_draft
        else None,
        texts=Texts(
            num_answers=1000,
            num_equal=1000 if is_target else 812,
            num_ties=41,
            mean_tokens=212.4,
            mean_tokens_target=210.9,
            num_loose_before=101 if name.startswith("fly") else 0,
            mean_gap=0.084,
        ),
        seconds_by_phase=PHASES if has_draft else {"prefill": 3.1, "target": 60.0},
        peak_memory_bytes=3_512_000_000,
        cost=Cost(
            draft_forward=0.12,
            verification=1.21,
            overhead=0.08,
            ideal_speedup=2.3,
            predicted_speedup=1.95,
            measured_speedup=factor,
            advice="The draft takes 29 % of a round: a smaller K (10) would be faster here.",
        )
        if has_draft
        else None,
        shares=shares() if has_draft or is_target else None,
    )


def comparison(tasks: Sequence[str]) -> Comparison:
    verdicts = ("SAFE", "INCONCLUSIVE", "NOT SAFE")
    return Comparison(
        environment={
            "command": "fly compare --tasks gsm8k",
            "processor": "a processor",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        },
        target="models/target-70b",
        draft="models/draft-8b",
        config={"spd_k": K, "win_len": 6, "entropy_thre": 0.3},
        tasks=[
            TaskResult(
                task=task,
                num_items=1000,
                metric="exact_match,strict-match",
                is_binary=True,
                point=0.01,
                margin_points=2.13,
                methods=[
                    method_result("target", "target", 1.0, 1.0),
                    method_result("native", "method", 1.38, 1.0),
                    method_result("fly", "method", 1.86, 0.991, verdicts[number % 3]),
                    method_result(
                        "fly:win_len=4", "method", 2.05, 0.955, verdicts[(number + 1) % 3]
                    ),
                    method_result("hf_generate", "baseline", 1.07, 1.0),
                    method_result("target batch 8", "control", 0.92, 0.998),
                ],
            )
            for number, task in enumerate(tasks)
        ],
        margin=0.97,
        margin_points=None,
        confidence=0.95,
        baseline="hf_generate",
        control="target batch 8",
        batch_size=16,
        block_size=32,
        notes=["99 % recovery at this baseline would need about 3,100 items."],
    )


def sweep() -> Sweep:
    rng = random.Random(7)
    points = []
    for k in (5, 10, 15):
        for window in (4, 6, 8):
            loss = 0.09 - 0.01 * window + 0.001 * k
            speed = 1.2 + 0.05 * k - 0.04 * window + rng.uniform(-0.05, 0.05)
            points.append(
                Point(
                    name=f"spd_k={k} win_len={window}",
                    settings={"spd_k": k, "win_len": window},
                    is_lossless=False,
                    num_items=100 if loss > 0.055 else 400,
                    stopped="hopeless after 100 items" if loss > 0.055 else None,
                    score=0.7 * (1 - loss),
                    recovery=interval(1 - loss, 0.02),
                    recovery_lower=1 - loss - 0.017,
                    points_lower=None,
                    paired=Paired(
                        num_items=400,
                        gained=3,
                        lost=9,
                        mcnemar_p=0.146,
                        difference=interval(-loss, 0.02),
                        recovery=interval(1 - loss, 0.02),
                    ),
                    speedup=interval(speed, 0.05),
                    mean_acceptance_length=4.0,
                    acceptance_rate=0.5,
                    loose_share=0.02,
                    rounds=9000,
                    by_position=[0.9**place for place in range(k)],
                    mean_tokens=101.5,
                    mean_tokens_target=100.0,
                    num_equal=90,
                    num_answers=400,
                    on_frontier=window == 8 or k == 15,
                )
            )
    return Sweep(
        environment={"command": "fly sweep"},
        target="models/target-70b",
        draft="models/draft-8b",
        config={"spd_k": 15},
        tasks=["gsm8k"],
        grid={"spd_k": [5, 10, 15], "win_len": [4, 6, 8]},
        margin=0.96,
        margin_points=None,
        num_search_items=400,
        num_heldout_items=400,
        points=points,
        saving=Saving(
            rounds_of_all_points=81_000,
            rounds_decoded=30_000,
            rounds_if_none_had_stopped=120_000,
            share_saved=0.63,
        ),
        recommended="spd_k=15 win_len=8",
        recommended_config={"spd_k": 15, "win_len": 8},
        heldout=comparison(["gsm8k"]),
        conclusion="spd_k=15 win_len=8 is the fastest setting whose lower bound clears the margin.",
    )


def write_lines(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(one.model_dump_json() + "\n" for one in records), encoding="utf-8")


def header(methods: Sequence[str]) -> Header:
    return Header(
        fingerprint="f" * 16,
        settings={"spd_k": K},
        methods={name: METHODS.get(name, {}) for name in methods},
    )


def write_answers(folder: Path, answers: Sequence[Answer], name: str = "answers.jsonl") -> None:
    methods = list(dict.fromkeys(one.method for one in answers))
    write_lines(folder / name, [header(methods), *answers])


def write_comparison(
    folder: Path,
    *,
    tasks: Sequence[str] = ("gsm8k", "humaneval_instruct"),
    num_items: int = 60,
    num_tokens: int = 120,
    methods: Sequence[str] = ("target", "fly", "native"),
    is_traced: bool = True,
    extra: Sequence[Answer] = (),
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    answers = [
        one
        for task in tasks
        for one in answers_of(task, num_items, num_tokens, methods=methods, is_traced=is_traced)
    ]
    answers += extra
    (folder / "compare.json").write_text(comparison(tasks).model_dump_json(), encoding="utf-8")
    write_answers(folder, answers)
    write_lines(folder / "items.jsonl", items_of(answers))
    return folder


def write_sweep(folder: Path) -> Path:
    write_comparison(folder, tasks=["gsm8k"], num_items=12, num_tokens=60)
    (folder / "compare.json").unlink()
    (folder / "sweep.json").write_text(sweep().model_dump_json(), encoding="utf-8")
    return folder


def write_run(folder: Path, date: str = DATE, num_items: int = 20) -> Path:
    place = folder / "models__target"
    place.mkdir(parents=True, exist_ok=True)
    answers = answers_of("gsm8k", num_items, 80, methods=["fly"])
    write_answers(place, answers, f"answers_{date}.jsonl")
    results = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.65,
                "exact_match_stderr,strict-match": 0.109,
                "exact_match,flexible-extract": 0.7,
                "exact_match_stderr,flexible-extract": "N/A",
            }
        },
        "higher_is_better": {"gsm8k": {"exact_match": True}},
        "n-samples": {"gsm8k": {"original": 1319, "effective": num_items}},
        "config": {"model": "fly", "model_args": {"pretrained": "models/target"}},
    }
    (place / f"results_{date}.json").write_text(json.dumps(results), encoding="utf-8")
    lines = [
        {
            "doc_id": number,
            "doc_hash": one.doc_hash,
            "target": "7",
            "filter": kind,
            "metrics": ["exact_match"],
            "exact_match": float(number % 3 > 0),
        }
        for kind in ("strict-match", "flexible-extract")
        for number, one in enumerate(answers)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place / f"samples_gsm8k_{date}.jsonl").write_text(text, encoding="utf-8")
    return folder
