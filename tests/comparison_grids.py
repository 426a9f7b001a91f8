"""Folders of runs for tests of the comparison's report. Nothing here was trained: every number is made up, by seed.

What is written is what a real grid leaves (`result.json`, `report.json`, `spec.json`, `rows/`), read with the package's
own readers, and consistent in itself: the scores are the means of the replies' values.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec, plan_runs
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.evaluation.report import capability_score
from sage.libs.finetune.agent.evaluation.score import Capability, Score

SKILL = {"B3_coreset_hybrid": 0.25, "D_combined": -0.2}
"""Added to the chance of a right reply, which is 0.45 for other methods."""
_WORDS = "order customer price tool answer because table lamp ship find the of a to and with status of total".split()


def write_grid(
    folder: Path,
    methods: str = "A_baseline,B3_coreset_hybrid,D_combined",
    seeds: int = 2,
    items: int = 12,
    model: str = "a-model",
    rows: int = 12,
    words: int = 12,
    skip: Sequence[str] = (),
    status: Mapping[str, str] | None = None,
) -> Path:
    """A made-up grid.

    Args:
        folder: Where it goes.
        methods: As for `ComparisonConfig`.
        seeds: Of each.
        items: Of each capability.
        model: Named as the base model.
        rows: To choose from.
        words: In a reply.
        skip: Names of run folders that get a spec.json alone.
        status: failed or cancelled by name of the run folder.
    """
    settings = ComparisonConfig(
        methods=methods, seeds=seeds, base_model=model, output_dir=folder, test_items=items, learning_rates="1e-4,3e-4"
    )
    for spec in plan_runs(settings):
        run = folder / spec.folder
        jsonl.write_json(run / "spec.json", spec.to_dict())
        if spec.folder in skip:
            continue
        state = (status or {}).get(spec.folder, "ok")
        if state == "ok":
            report = _report(spec, items, words)
            report.save(run / "report.json")
            _write_rows(spec, run / "rows", rows)
            _record(spec, report).save(run)
        else:
            RunRecord(
                spec.method_id, asdict(spec.method), spec.seed, spec.digest, state, settings.to_dict(),  # type: ignore[arg-type]
                error="RuntimeError: out of <b>memory</b>" if state == "failed" else None,
            ).save(run)  # fmt: skip
    return folder


def training_row(number: int) -> dict[str, Any]:
    """A row of training data."""
    task = ("tools", "plans", "sums")[number % 3]
    words = random.Random(f"row {number}").choices(_WORDS, k=8)
    return {
        "messages": [
            {"role": "user", "content": f"{task}: {' '.join(words)}?"},
            {"role": "assistant", "content": f"The answer is {number}."},
        ],
        "metadata": {"task_type": task},
    }


def _report(spec: RunSpec, items: int, words: int) -> CapabilityReport:
    scores = {}
    for name in spec.settings.measured():
        records, found = [], []
        for number in range(items):
            item = random.Random(f"{name} {number}")
            luck = random.Random(f"{spec.folder} {name} {number}")
            right = luck.random() < 0.45 + SKILL.get(spec.method_id, 0.0) + 0.3 * (item.random() - 0.5)
            prompt = " ".join(item.choices(_WORDS, k=6 * words))
            failed = luck.random() < 0.03
            records.append({
                "id": f"{name}-test-{number:04d}", "prompt": [{"role": "user", "content": f"{prompt}?"}],
                "reply": None if failed else " ".join(luck.choices(_WORDS, k=words)), "seconds": 0.1,
                "error": "ModelError: no reply" if failed else None, "cut": luck.random() < 0.1,
            })  # fmt: skip
            reason = "as it should be" if right else "no call where one was due"
            found.append(None if failed else Score(float(right), ["find", number], reason, {}))
        capability = Capability(name, lambda *_: Score(1.0, None, ""), lambda *_: None, lambda _: {})
        scores[name] = capability_score(capability, records, found)
    return CapabilityReport(scores, model=str(spec.folder), created="2026-01-01T00:00:00+00:00")


def _record(spec: RunSpec, report: CapabilityReport) -> RunRecord:
    luck = random.Random(spec.folder)
    metrics = {
        name: {
            "score": score.score, "n": score.num_samples, "interval": score.details["interval"], "errors": score.errors,
            "items": {one["id"]: one["value"] for one in score.replies if one["value"] is not None},
        }
        for name, score in report.scores.items()
    }  # fmt: skip
    tasks = ["tools", "plans", "sums"]
    matrix = [[round(luck.uniform(0.2, 0.9), 2) for _ in tasks] for _ in tasks]
    stream = {
        "tasks": tasks, "matrix": matrix, "average": fmean(matrix[-1]), "backward_transfer": -0.1,
        "forgetting": {"mean": 0.1, "per_task": [0.1, 0.1]}, "forward_transfer": None,
    }  # fmt: skip
    extra = 20_000 if spec.method.use_coreset else 0
    return RunRecord(
        spec.method_id, asdict(spec.method), spec.seed, spec.digest, "ok", spec.settings.to_dict(), metrics=metrics,
        forgetting=stream if spec.method.use_continual else None,
        learning_rates=[{"rate": rate, "score": round(luck.uniform(0.3, 0.6), 3)} for rate in spec.settings.rates()],
        learning_rate=luck.choice(spec.settings.rates()),
        tokens={"seen": 100_000, "trained": 30_000, "sweep": 50_000, "selection": extra, "collection": 0},
        seconds={"train": luck.uniform(50, 90), "sweep": 40.0, "evaluate": 9.0, "total": luck.uniform(110, 160)},
        rows={"given": 100, "used": 40 if extra else 100},
        losses=[[step, round(2.0 / step**0.3 + luck.uniform(-0.2, 0.2), 4)] for step in range(1, 201)],
        peak_memory_bytes=luck.randrange(2**30, 2**31), versions={"torch": "2.0", "python": "3.11"},
        git_revision="0123456789abcdef", device="CPU, 1 threads", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:03:00+00:00",
    )  # fmt: skip


def _write_rows(spec: RunSpec, folder: Path, rows: int) -> None:
    numbers = range(rows)
    if spec.method.use_coreset:
        numbers = sorted(random.Random(spec.seed).sample(numbers, round(spec.method.coreset_share * rows)))  # type: ignore[assignment]
    jsonl.write_jsonl(folder / "01-all.jsonl", [training_row(number) for number in numbers])
