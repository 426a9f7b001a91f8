"""Which rows to train on: strategies at 10, 20 and 30% of a pool with known flaws, beside all of it (R5).

Every run trains a LoRA adapter on the chosen rows for the same number of steps of as many rows, and answers each turn
of the same held-out rows greedily. The scorer is the base model after `--warm-steps` on a random tenth of the pool: as
it comes it does not know the form of the rows, and its losses say little else. It scores the pool once, for all
strategies and seeds; its seconds are in the result. A seed decides the choice where it is drawn, the adapter and the
order of rows; the pool is the same for all.

    python benchmarks/coreset.py --small              # two CPU cores; what was done is not done again
    python benchmarks/coreset.py --full               # a GPU
    python benchmarks/coreset.py --small --select-only  # what each strategy picks, without training
    python benchmarks/coreset.py --small --figure     # docs/selection.png from benchmarks/results
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import coreset_summary
import torch
from common import report
from flawed_pool import flaw_counts, flawed_pool, held_out_rows

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.reporting.progress import TerminalProgress
from sage.libs.finetune.agent.selection.coreset import STRATEGIES, CoresetSelector
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

ARMS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    "loss_topk": {"strategy": "loss_topk"},
    "diversity": {"strategy": "diversity"},
    "hybrid": {"strategy": "hybrid"},
    "ifd": {"strategy": "ifd"},
    "ccs": {"strategy": "ccs"},
    "product": {"strategy": "hybrid", "hybrid_mode": "product", "loss_band": [0.05, 0.85], "near_duplicates": 0.95},
    "recommended": {"strategy": "ifd_diversity"},
}
"""Settings of `CoresetSelector` by name."""

FULL_DATA, UNTRAINED = "full", "untrained"
ALLOWED = "unknown_tool,arguments"
"""Faults that the corrupted rows have on purpose."""

SMALL: dict[str, Any] = {
    "rows": 600, "held_out": 30, "steps": 24, "batch": 4, "warm_steps": 0, "seeds": [0, 1, 2],
    "budgets": [0.1, 0.2, 0.3], "arms": ["random", "loss_topk", "diversity", "recommended"], "learning_rate": 2e-3,
}  # fmt: skip
FULL: dict[str, Any] = {
    **SMALL, "rows": 3000, "held_out": 150, "steps": 150, "batch": 8, "warm_steps": 40, "arms": list(ARMS),
    "learning_rate": 1e-3,
}  # fmt: skip
ROW_TOKENS, TURNS_PER_ROW, TURN_TOKENS = 270, 3.3, 25
TRAINED_PER_SECOND, READ_PER_SECOND, WRITTEN_PER_SECOND = 1600, 3500, 150
"""Tokens a second of the embedded model on two CPU cores, for the estimate at the start."""


@dataclass(frozen=True)
class Run:
    """One training run: which rows, and the seed."""

    arm: str
    budget: float | None
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        share = "" if self.budget is None else f"-{round(100 * self.budget):02d}"
        return f"{self.arm}{share}-seed{self.seed}"


class Benchmark:
    """The pool, its scorer and the runs, each kept in a file of the folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(options).items() if name not in (*NOT_SETTINGS, *WHICH_RUNS)}
        mark = self.folder / "settings.json"
        if mark.exists() and jsonl.read_json(mark) != settings:
            raise SystemExit(f"{self.folder} holds runs with other settings; give another --folder, or remove it")
        jsonl.write_json(mark, settings)
        self.pool = flawed_pool(options.rows, options.pool_seed)
        self.held_out = held_out_rows(options.held_out, options.pool_seed)
        jsonl.write_jsonl(self.folder / "pool.jsonl", self.pool)

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that every strategy has a number before any has its second."""
        for seed in self.options.seeds:
            yield Run(FULL_DATA, None, seed)
            for budget in self.options.budgets:
                for arm in self.options.arms:
                    yield Run(arm, budget, seed)

    def chosen(self, run: Run) -> list[int]:
        """The rows a run trains on."""
        if run.budget is None:
            return list(range(len(self.pool)))
        path, settings = self.folder / "chosen" / f"{run.name}.json", ARMS[run.arm]
        if not path.exists() or jsonl.read_json(path)["settings"] != settings:
            begin = time.perf_counter()
            size = round(run.budget * len(self.pool))
            selector = CoresetSelector(target_size=size, seed=run.seed, cache=self.folder / "scores", **settings)
            needs_model = STRATEGIES[selector.strategy].losses or selector.loss_band is not None
            rows = selector.select_indices(self.pool, self.scorer if needs_model else None)
            jsonl.write_json(path, {"rows": rows, "seconds": time.perf_counter() - begin, "settings": settings})
        found: list[int] = jsonl.read_json(path)["rows"]
        return found

    @cached_property
    def scorer(self) -> AgentSFTTrainer:
        """The warmed scorer; the pool is scored before anything is chosen, so that its seconds stand alone."""
        from sage.libs.finetune.agent.selection.scoring import score_samples

        folder, steps = self.folder / "scorer", self.options.warm_steps
        seconds = {}
        begin = time.perf_counter()
        if steps and not (folder / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            tenth = random.Random(f"scorer/{self.options.pool_seed}").sample(self.pool, len(self.pool) // 10)
            trainer = self._trainer(tenth, folder, steps, seed=0)
            trainer.train()
            seconds["warm_up"] = time.perf_counter() - begin
        trainer = AgentSFTTrainer.from_pretrained(
            str(folder / "adapter") if steps else self.options.model, progress=silent, dtype=self.options.dtype
        )
        begin = time.perf_counter()
        alone = any(STRATEGIES[ARMS[arm]["strategy"]].alone for arm in self.options.arms)
        with TerminalProgress() as progress:
            score_samples(self.pool, trainer, alone=alone, cache=self.folder / "scores", progress=progress)
        if not (self.folder / "scorer.json").exists():
            seconds["scoring"] = time.perf_counter() - begin
            jsonl.write_json(self.folder / "scorer.json", {"warm_steps": steps, "rows": len(self.pool), **seconds})
        return trainer

    def result(self, run: Run) -> dict[str, Any]:
        """Train and evaluate, unless that was done."""
        if (found := self.kept(run)) is not None:
            return found
        options = self.options
        rows = [self.pool[index] for index in self.chosen(run)]
        folder = self.folder / "training"
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        trainer = self._trainer(rows, folder, options.steps, run.seed)
        loss, tokens = None, 0
        if run.arm != UNTRAINED:
            trained = trainer.train()
            loss, tokens = trained.final_loss, trained.tokens_seen
        half = time.perf_counter()
        evaluated = trainer.evaluate(self.held_out)
        record = {
            "arm": run.arm, "budget": run.budget, "seed": run.seed, "settings": ARMS.get(run.arm), "rows": len(rows),
            "accuracy": evaluated.accuracy, "interval": list(vars(evaluated.accuracy_interval).values()),
            "held_out_loss": evaluated.loss, "turns": evaluated.n, "calls_valid": evaluated.calls_valid,
            "training_loss": loss, "tokens_seen": tokens,
            "train_seconds": half - begin, "evaluate_seconds": time.perf_counter() - half,
            "flaws": flaw_counts(rows), "kinds": len({row["metadata"]["kind"] for row in rows}),
            "right": [[reply["row"], int(reply["right"])] for reply in evaluated.replies],
        }  # fmt: skip
        jsonl.write_json(self._path(run), record)
        shutil.rmtree(folder, ignore_errors=True)
        return record

    def kept(self, run: Run) -> dict[str, Any] | None:
        """The result of a run that was done with the same settings of the strategy."""
        if not self._path(run).exists():
            return None
        found: dict[str, Any] = jsonl.read_json(self._path(run))
        return found if found["settings"] == ARMS.get(run.arm) else None

    def _path(self, run: Run) -> Path:
        return self.folder / "runs" / f"{run.name}.json"

    def _trainer(self, rows: list[Any], folder: Path, steps: int, seed: int) -> AgentSFTTrainer:
        options = self.options
        data = self.folder / "training.jsonl"
        jsonl.write_jsonl(data, rows)
        config = AgentSFTConfig(
            base_model=options.model, train_data=str(data), output_dir=folder, dtype=options.dtype, seed=seed,
            max_steps=steps, batch_size=options.batch, gradient_accumulation_steps=1, adam_beta2=0.98,
            learning_rate=options.learning_rate, max_seq_length=2048, max_new_tokens=64, save_steps=steps + 1,
            allow=ALLOWED,
        )  # fmt: skip
        return AgentSFTTrainer(config, progress=silent)


NOT_SETTINGS = ("folder", "small", "full", "select_only", "figure")
WHICH_RUNS = ("arms", "budgets", "seeds")
"""May change from call to call in one folder."""


def main() -> None:
    options = _options()
    name = f"coreset_{'full' if options.full else 'small'}"
    if options.figure:
        print(coreset_summary.draw(name))
        return
    benchmark = Benchmark(options)
    runs = list(benchmark.runs())
    if options.select_only:
        print(
            coreset_summary.flaw_lines([(run, [benchmark.pool[row] for row in benchmark.chosen(run)]) for run in runs])
        )
        return
    todo = [run for run in runs if benchmark.kept(run) is None]
    _say(f"{len(todo)} of {len(runs)} runs to do, in {benchmark.folder}{_estimate(options, len(todo))}")
    for run in runs:
        benchmark.chosen(run)
    vars(benchmark).pop("scorer", None)  # its memory
    untrained = benchmark.result(Run(UNTRAINED, None, 0))
    results, spent = [], 0.0
    for run in runs:
        begin = time.perf_counter()
        results.append(benchmark.result(run))
        if run in todo:
            todo.remove(run)
            took = time.perf_counter() - begin
            spent = took if not spent else 0.7 * spent + 0.3 * took
            _say(
                f"{run.name}: {results[-1]['accuracy']:.1%}, {took:.0f} s; about {len(todo) * spent / 60:.0f} min left"
            )
    report(name, _record(benchmark, untrained, results))


def _record(benchmark: Benchmark, untrained: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    options = benchmark.options
    settings = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    scorer = benchmark.folder / "scorer.json"
    return {
        "settings": {**settings, "arms": {arm: ARMS[arm] for arm in options.arms}},
        "pool": {"rows": len(benchmark.pool), "flaws": flaw_counts(benchmark.pool)},
        "held_out": {"rows": len(benchmark.held_out), "turns": untrained["turns"]},
        "scorer": jsonl.read_json(scorer) if scorer.exists() else None,
        "untrained_accuracy": untrained["accuracy"],
        "summary": coreset_summary.summary(results),
        "differences": coreset_summary.differences(results),
        "runs": [{name: value for name, value in run.items() if name not in ("right", "settings")} for run in results],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--small", action="store_true", help="the setting for two CPU cores (default)")
    which.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--select-only", action="store_true", help="only what each strategy picks")
    parser.add_argument("--figure", action="store_true", help="only draw docs/selection.png from the results")
    parser.add_argument("--folder", type=Path, help="of runs (default: .sage/coreset-small or -full)")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--pool-seed", type=int, default=0)
    for name, kind in (("rows", int), ("held-out", int), ("steps", int), ("batch", int), ("warm-steps", int)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--budgets", type=float, nargs="+")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS))
    options = parser.parse_args()
    for name, value in (FULL if options.full else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.folder = options.folder or Path(".sage") / f"coreset-{'full' if options.full else 'small'}"
    return options


def _estimate(options: argparse.Namespace, runs: int) -> str:
    """About how long, where that is known beforehand: the embedded model on a CPU."""
    if torch.cuda.is_available() or options.model != EMBEDDED:
        return "; how long is said after the first"
    train = options.steps * options.batch * ROW_TOKENS / TRAINED_PER_SECOND
    ask = options.held_out * (TURNS_PER_ROW * TURN_TOKENS / WRITTEN_PER_SECOND + ROW_TOKENS / READ_PER_SECOND)
    warm = options.warm_steps * options.batch * ROW_TOKENS / TRAINED_PER_SECOND
    score = options.rows * ROW_TOKENS / READ_PER_SECOND
    return f"; about {(runs * (train + ask + 4) + warm + score) / 60:.0f} minutes on two CPU cores"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
