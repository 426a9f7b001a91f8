"""What replay keeps of earlier tasks: a stream of five families (`task_families`) by several methods, and a 10:1 one.

    none        each task alone, one after the other
    reservoir   0.25 replayed rows for each new one, out of a uniform sample of the stream
    balanced    the same, out of equal shares of the tasks
    surprise    the same, out of the rows with the highest losses
    on_policy   balanced, and after each task the model's own right replies take the place of the stored ones
    self        rows the base model wrote itself are all that is in the buffer when the stream begins
    joint       all tasks at once, with as many steps as the whole stream: what could be kept at best

Every method sees the same rows and takes the same steps on new rows. The streams are the product's (`run_stream`), and
go on where they were when this script is started again. In the 10:1 stream every other task has a tenth of the rows,
the same steps, and the buffer is small; how much of backward transfer is lost is what `balanced` has to show there.

    python benchmarks/continual.py --small          two cores, under half an hour
    python benchmarks/continual.py --full           a GPU
    python benchmarks/continual.py --figure         docs/continual.png, out of the results
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from common import RESULTS, report
from task_families import FAMILIES, family_rows

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.models.embedded import EMBEDDED

DOCS = Path(__file__).parents[1] / "docs"
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "reservoir": {"use_online_continual": True, "continual_strategy": "reservoir"},
    "balanced": {"use_online_continual": True, "continual_strategy": "balanced"},
    "surprise": {"use_online_continual": True, "continual_strategy": "surprise"},
    "on_policy": {"use_online_continual": True, "continual_strategy": "balanced", "continual_on_policy": True},
    "self": {"use_online_continual": True, "continual_strategy": "balanced", "continual_self_rows": 64},
}
JOINT = "joint"
EVEN, TEN_TO_ONE = "even", "10:1"
TOKENS = 56
"""Of a row, on average over the families."""


@dataclass
class Scale:
    """How much is done.

    Attributes:
        methods: On the even stream, `joint` among them.
        uneven: Methods on the 10:1 stream.
        seeds: Of rows, order of rows and adapters.
        orders: Orders of the families; with seed s the s-th of them is taken first.
        rows: Of a task.
        steps: Of a task.
        batch_size: New rows of a step.
        test_rows: Of a task.
        buffer: Rows it holds; a third of it in the 10:1 stream.
    """

    methods: tuple[str, ...]
    uneven: tuple[str, ...]
    seeds: int
    orders: int
    rows: int
    steps: int
    batch_size: int
    test_rows: int
    buffer: int
    learning_rate: float = 1e-3
    tokens_per_second: float = 900.0


SMALL = Scale(
    ("none", "reservoir", "balanced", "surprise", JOINT), ("reservoir", "balanced"),
    seeds=2, orders=1, rows=40, steps=30, batch_size=4, test_rows=24, buffer=48,
)  # fmt: skip
FULL = Scale(
    (*METHODS, JOINT), ("none", "reservoir", "balanced"), seeds=3, orders=2, rows=300, steps=110, batch_size=8,
    test_rows=100, buffer=150, tokens_per_second=20_000.0,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One stream by one method."""

    stream: str
    method: str
    seed: int
    order: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.stream.replace(':', '-')}_{self.method}_{self.seed}_{'-'.join(name[0] for name in self.order)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--small", action="store_true")
    what.add_argument("--full", action="store_true")
    what.add_argument("--figure", metavar="JSON", nargs="?", const=str(RESULTS / "continual.json"))
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--folder", type=Path, default=Path(".sage/continual"), help="of the streams, to go on with")
    for name, kind in (("seeds", int), ("rows", int), ("steps", int), ("buffer", int), ("learning_rate", float)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the setting's own")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="of the methods")
    options = parser.parse_args()
    if options.figure:
        print(draw(json.loads(Path(options.figure).read_text(encoding="utf-8")), DOCS / "continual.png"))
        return
    scale = SMALL if options.small else FULL
    given = {spec.name: getattr(options, spec.name, None) for spec in fields(Scale)}
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    arms = [arm for arm in all_arms(scale) if not options.only or arm.method in options.only]
    folder = options.folder / f"{'small' if options.small else 'full'}-{_digest(scale, options.model)}"
    begin, results = time.perf_counter(), []
    print(f"{len(arms)} streams, about {estimate(scale, arms) / 60:.0f} minutes in all", flush=True)
    for number, arm in enumerate(arms, start=1):
        results.append(measure(arm, scale, options.model, folder))
        spent = time.perf_counter() - begin
        print(f"{number}/{len(arms)} {arm.name}: {in_words(results[-1])}; {spent / 60:.1f} minutes so far", flush=True)
    settings = {"model": options.model, **asdict(scale)}
    name = "continual" if options.small else "continual_full"
    seconds = sum(result["seconds"] for result in results)
    report(name, {"settings": settings, "seconds": seconds, "summary": summary(results), "streams": results})


def _digest(scale: Scale, model: str) -> str:
    """Streams of other settings are other streams; methods and seeds only say which of them are run."""
    same = {**asdict(scale), "methods": (), "uneven": (), "seeds": 0, "orders": 0, "model": model}
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:8]


def all_arms(scale: Scale) -> Iterator[Arm]:
    """The streams; a seed is whole before the next one begins, so that a run cut short has something to say."""
    orders = [tuple(FAMILIES), tuple(reversed(FAMILIES))][: scale.orders]
    for seed in range(scale.seeds):
        for order in orders:
            yield from (Arm(EVEN, method, seed, order) for method in scale.methods)
        yield from (Arm(TEN_TO_ONE, method, seed, orders[0]) for method in scale.uneven)


def estimate(scale: Scale, arms: list[Arm]) -> float:
    """Seconds, roughly: forward passes cost a third of training, a new token (12 a reply) as much as four trained."""
    tasks = len(FAMILIES)
    seconds = 0.0
    for arm in arms:
        replayed = 1.25 if METHODS.get(arm.method) else 1.0
        trained = tasks * scale.steps * scale.batch_size * TOKENS * replayed
        evaluated = (1 if arm.method == JOINT else tasks) * tasks * scale.test_rows * (TOKENS / 3 + 4 * 12)
        seconds += (trained + evaluated) / scale.tokens_per_second + 2 * tasks
    return seconds


def measure(arm: Arm, scale: Scale, model: str, folder: Path) -> dict[str, Any]:
    """Run a stream, or read what it came to when it is done."""
    done = folder / f"{arm.name}.json"
    if not done.exists():
        begin = time.perf_counter()
        data = folder / "data" / f"{arm.stream.replace(':', '-')}_{arm.seed}"
        write_rows(arm, scale, data)
        run = _joint if arm.method == JOINT else _stream
        found = run(arm, scale, model, folder / arm.name, data)
        for checkpoints in (folder / arm.name).glob("**/checkpoints"):
            shutil.rmtree(checkpoints)
        jsonl.write_json(done, {**asdict(arm), **found, "seconds": round(time.perf_counter() - begin, 1)})
    result: dict[str, Any] = jsonl.read_json(done)
    return result


def write_rows(arm: Arm, scale: Scale, folder: Path) -> None:
    """A file for training and one for testing of each family; in the 10:1 stream every other task has a tenth."""
    for number, family in enumerate(arm.order):
        few = arm.stream == TEN_TO_ONE and number % 2 == 0
        many = math.ceil(scale.rows * 1.5) if arm.stream == TEN_TO_ONE else scale.rows
        rows = family_rows(family, "train", math.ceil(many / 10) if few else many, arm.seed)
        jsonl.write_jsonl(folder / f"{family}_train.jsonl", rows)
        jsonl.write_jsonl(folder / f"{family}_test.jsonl", family_rows(family, "test", scale.test_rows))
    joint = [row for family in arm.order for _, row in jsonl.read_jsonl(folder / f"{family}_train.jsonl")]
    jsonl.write_jsonl(folder / "joint_train.jsonl", joint)


def _settings(arm: Arm, scale: Scale, model: str) -> dict[str, Any]:
    return {
        "base_model": model, "seed": arm.seed, "learning_rate": scale.learning_rate, "batch_size": scale.batch_size,
        "gradient_accumulation_steps": 1, "max_steps": scale.steps, "max_seq_length": 256, "max_new_tokens": 32,
        "lora_r": 16, "lora_alpha": 32, "adam_beta2": 0.98, "eval_batch_size": 128, "save_steps": 10_000,
    }  # fmt: skip


def _stream(arm: Arm, scale: Scale, model: str, folder: Path, data: Path) -> dict[str, Any]:
    from sage.libs.finetune.agent.training.stream import run_stream
    from sage.libs.finetune.agent.training.stream_config import StreamConfig

    method = METHODS[arm.method]
    buffer = scale.buffer // 3 if arm.stream == TEN_TO_ONE else scale.buffer
    replay = {"continual_buffer_size": buffer, "continual_replay_ratio": 0.25} if method else {}
    tasks = [
        {"name": family, "train_data": str(data / f"{family}_train.jsonl"),
         "eval_data": str(data / f"{family}_test.jsonl")}
        for family in arm.order
    ]  # fmt: skip
    first = arm.method == "none" and arm.seed == 0
    config = StreamConfig.from_dict({
        **_settings(arm, scale, model), **method, **replay, "output_dir": folder, "evaluate_first": first,
        "tasks": tasks,
    })  # fmt: skip
    result = run_stream(config)
    replayed = sum(run["rows_replayed"] or 0 for run in result.runs)
    return {
        "before": result.line(result.before) if result.before else None, "matrix": result.matrix, **result.figures,
        "rows_replayed": replayed,
    }  # fmt: skip


def _joint(arm: Arm, scale: Scale, model: str, folder: Path, data: Path) -> dict[str, Any]:
    from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer
    from sage.libs.finetune.agent.progress import silent

    settings = {**_settings(arm, scale, model), "max_steps": scale.steps * len(arm.order)}
    config = AgentSFTConfig(train_data=str(data / "joint_train.jsonl"), output_dir=folder, **settings)
    trainer = AgentSFTTrainer(config, silent)
    trainer.train(resume=(folder / "config.yaml").exists())
    line = [trainer.evaluate(data / f"{family}_test.jsonl").accuracy for family in arm.order]
    return {"matrix": [line], "average": statistics.fmean(line), "backward_transfer": None}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds and orders, the lowest and the highest, and how much of the loss of `none` a method removes."""
    found: dict[str, Any] = {}
    for stream in (EVEN, TEN_TO_ONE):
        of_stream = [result for result in results if result["stream"] == stream]
        methods = dict.fromkeys(result["method"] for result in of_stream)
        found[stream] = {method: _of_method(method, of_stream) for method in methods}
    return found


def _of_method(method: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    own = [result for result in results if result["method"] == method]
    transfers = [result["backward_transfer"] for result in own if result["backward_transfer"] is not None]
    averages = [result["average"] for result in own]
    found: dict[str, Any] = {"n": len(own), "average": _spread(averages)}
    if transfers:
        found["backward_transfer"] = _spread(transfers)
        plain = [r["backward_transfer"] for r in results if r["method"] == "none"]
        lost = statistics.fmean(plain) if plain else 0.0
        found["loss_removed"] = 1 - statistics.fmean(transfers) / lost if lost < 0 else None
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "lowest": min(values), "highest": max(values)}


def in_words(result: Mapping[str, Any]) -> str:
    transfer = result["backward_transfer"]
    lost = "" if transfer is None else f", backward transfer {100 * transfer:+.1f} points"
    return f"average {result['average']:.1%}{lost}, {result['seconds']:.0f} s"


def draw(record: Mapping[str, Any], path: Path) -> Path:
    """The figure of the results: what is kept (average) and what was lost (backward transfer), by method."""
    from sage.libs.finetune.agent.reporting.pictures import COLOURS, clear_axes, new_figure, save_picture, set_title

    figure = new_figure(11, 4.2)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": [4, 4, 3]})
    even, uneven = record["summary"][EVEN], record["summary"][TEN_TO_ONE]
    shown = (
        (panels[0], even, "average", "All tasks at the end", "share of answers right, mean and range over seeds"),
        (panels[1], even, "backward_transfer", "Lost since learned", "backward transfer, five tasks of equal size"),
        (panels[2], uneven, "backward_transfer", "The same, 10:1", "every other task has a tenth of the rows"),
    )
    for axes, methods, figure_of, title, facts in shown:
        names = [name for name, found in methods.items() if figure_of in found]
        for at, name in enumerate(names):
            spread = methods[name][figure_of]
            mean, low, high = (100 * spread[part] for part in ("mean", "lowest", "highest"))
            colour = COLOURS[["none", "reservoir", "balanced", "surprise", JOINT, "on_policy", "self"].index(name)]
            axes.bar(at, mean, color=colour, width=0.65)
            axes.plot([at, at], [low, high], color="black", linewidth=1)
            axes.annotate(
                f"{mean:.0f}", (at, mean), (0, 4 if mean >= 0 else -4), textcoords="offset points", ha="center",
                va="bottom" if mean >= 0 else "top", fontsize=9,
            )  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
        axes.axhline(0, color="#adb5bd", linewidth=0.8)
        axes.set_ylabel("%" if figure_of == "average" else "points")
        axes.margins(y=0.12)
        clear_axes(axes)
        set_title(axes, title, facts)
    return save_picture(figure, path)


if __name__ == "__main__":
    main()
