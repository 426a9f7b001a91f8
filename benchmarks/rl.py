"""What reinforcement adds to a model that solves about half of the desk's tasks: the arms of `rl_arms.py`.

SFT of the embedded model is stopped early, and every arm goes on from that adapter. All are measured on the same
held-out tasks, so that each difference is taken task by task: for one seed the exact McNemar test and Tango's interval;
over seeds a bootstrap of the differences, which draws seeds and tasks. A PPO run has collapsed when the policy that
played was `COLLAPSED` nats an episode or more away from its start.

    python benchmarks/rl.py --small             two cores, one seed, under 20 minutes
    python benchmarks/rl.py --full              a GPU, three seeds
    python benchmarks/rl.py --figure            docs/rl.png, out of the results

What was done is not done again; a run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from common import RESULTS, report
from rl_arms import ARMS, FULL, SMALL, START, Scale, all_arms, estimate, measure

from sage.libs.finetune.agent.models.embedded import EMBEDDED

PICTURE = Path(__file__).parents[1] / "docs" / "rl.png"
COLLAPSED = 10.0
"""Nats an episode."""
DPO_GAIN = 0.05
"""Success that DPO is to add to SFT."""


def main() -> None:
    options = _options()
    if options.figure:
        print(draw(json.loads(Path(options.figure).read_text(encoding="utf-8"))))
        return
    scale = SMALL if options.small else FULL
    given = {spec.name: getattr(options, spec.name, None) for spec in fields(Scale)}
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    size = "small" if options.small else "full"
    runs = options.folder / f"{size}-{_digest(scale, options.model)}"
    arms = list(all_arms(scale))
    minutes = sum(estimate(arm, scale) for arm in arms) / 60
    _say(f"{len(arms)} runs in {runs}, {minutes:.0f} minutes in all on two quiet cores (small) or a GPU (full), about")
    begin, results = time.perf_counter(), []
    for number, arm in enumerate(arms, start=1):
        results.append(measure(arm, scale, options.model, runs))
        spent = (time.perf_counter() - begin) / 60
        _say(f"{number}/{len(arms)} {in_words(results[-1])}; {spent:.1f} minutes so far")
    found = {"summary": summary(results), "differences": differences(results)}
    report(
        "rl" if options.small else "rl_full",
        {
            "settings": {"model": options.model, **asdict(scale), "arms": {name: ARMS[name] for name in scale.arms}},
            **found, "verdicts": verdicts(found),
            "runs": [{name: value for name, value in run.items() if name != "solved"} for run in results],
        },
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--small", action="store_true")
    what.add_argument("--full", action="store_true")
    what.add_argument("--figure", metavar="JSON", nargs="?", const=str(RESULTS / "rl.json"))
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--folder", type=Path, default=Path(".sage/rl-benchmark"), help="of the runs, to go on with")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), type=str)
    parser.add_argument("--seeds", nargs="+", type=int)
    for name in ("sft_steps", "tasks", "samples", "iterations", "minibatch", "epochs", "test_tasks"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the setting's own")
    for name in ("learning_rate", "kl_coef", "dpo_learning_rate", "dpo_beta"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help="instead of the setting's own")
    options = parser.parse_args()
    for name in ("arms", "seeds"):
        if getattr(options, name) is not None:
            setattr(options, name, tuple(getattr(options, name)))
    return options


def _digest(scale: Scale, model: str) -> str:
    """Runs of other settings are other runs; arms and seeds only say which of them are made."""
    rates = dict.fromkeys(("read_per_second", "written_per_second", "trained_per_second"), 0)
    same = {**asdict(scale), **rates, "arms": ARMS, "seeds": (), "model": model}
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:8]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_words(run: Mapping[str, Any]) -> str:
    """One line about a run."""
    kl = farthest(run)
    moved = "" if kl is None else f", KL at most {kl:.1f} nats an episode"
    return f"{run['arm']}, seed {run['seed']}: {run['success']:.1%}{moved}, {run['train_seconds']:.0f} s"


def farthest(run: Mapping[str, Any]) -> float | None:
    """The largest mean KL of an iteration's episodes to the start; None where none was estimated while playing."""
    found = run["curves"].get("kl_per_episode")
    return max(found) if found else None


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each arm: success with Wilson's interval, seed by seed, and over seeds by bootstrap; KL, tokens, seconds."""
    from sage.libs.finetune.agent.evaluation.statistics import hierarchical_bootstrap

    found = {}
    for arm, runs in by_arm(results).items():
        mean = hierarchical_bootstrap([solved(run) for run in runs])
        moved = [kl for run in runs if (kl := farthest(run)) is not None]
        found[arm] = {
            "success": mean.mean, "interval": [mean.interval.low, mean.interval.high], "tasks": mean.items,
            "by_seed": [
                {"seed": run["seed"], "success": run["success"], "wilson_interval": run["interval"]} for run in runs
            ],
            "by_split": {
                split: statistics.fmean(run["by_split"][split] for run in runs) for split in runs[0]["by_split"]
            },
            "kl_per_episode": max(moved) if moved else None,
            "collapsed": max(moved) >= COLLAPSED if moved else None,
            **{
                name: statistics.fmean(run[name] for run in runs)
                for name in ("steps", "tokens_seen", "tokens_trained", "train_seconds", "evaluate_seconds")
            },
        }  # fmt: skip
    return found


def differences(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each arm minus the start, and PPO by turns minus PPO by tokens, task by task."""
    arms = by_arm(results)
    pairs = [(arm, START) for arm in arms if arm != START] + [("ppo_turn", "ppo_token")]
    return [_difference(one, other, arms) for one, other in pairs if one in arms and other in arms]


def _difference(one: str, other: str, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Runs are paired by seed: both went on from the same start, so a seed's luck there is in neither difference."""
    from sage.libs.finetune.agent.evaluation.statistics import hierarchical_bootstrap, mcnemar, paired_share_interval

    beside = {run["seed"]: run for run in arms[other]}
    pairs = [(run, beside[run["seed"]]) for run in arms[one] if run["seed"] in beside]
    by_seed, gained = [], []
    for run, base in pairs:
        ours, theirs = solved(run), solved(base)
        test = mcnemar(ours, theirs)
        interval = paired_share_interval(test.only_a, test.only_b, test.n)
        gained.append([a - b for a, b in zip(ours, theirs, strict=True)])
        by_seed.append({
            "seed": run["seed"], "difference": (test.only_a - test.only_b) / test.n,
            "interval": [interval.low, interval.high], "p": test.p, "only_first": test.only_a,
            "only_second": test.only_b,
        })  # fmt: skip
    mean = hierarchical_bootstrap(gained)
    return {
        "arm": one, "minus": other, "difference": mean.mean, "interval": [mean.interval.low, mean.interval.high],
        "p": mean.p, "by_seed": by_seed,
    }  # fmt: skip


def verdicts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, what came out, and whether that is so: as measured, and for all the interval holds.

    `shown` is true when even the interval's lower end reaches the goal, false when the upper one does not, and null
    when the tasks and seeds cannot tell.
    """
    gains = {(line["arm"], line["minus"]): line for line in found["differences"]}
    goals = (
        ("dpo", START, DPO_GAIN, f"dpo is {100 * DPO_GAIN:.0f} points above sft"),
        ("ppo_turn", START, 0.0, "ppo by turns is not below sft"),
        ("ppo_turn", "ppo_token", 0.0, "turns are not below tokens"),
    )
    lines = []
    for one, other, least, goal in goals:
        if (line := gains.get((one, other))) is None:
            lines.append({"goal": goal, "measured": None, "reached": None, "shown": None})
            continue
        low, high = line["interval"]
        shown = True if low >= least else False if high < least else None
        lines.append(
            {"goal": goal, "measured": line["difference"], "reached": line["difference"] >= least, "shown": shown}
        )
    kl = found["summary"].get("ppo_turn", {}).get("kl_per_episode")
    reached = None if kl is None else kl < COLLAPSED
    lines.append({
        "goal": f"ppo by turns stays within {COLLAPSED:g} nats an episode", "measured": kl, "reached": reached,
        "shown": reached,
    })  # fmt: skip
    return lines


def by_arm(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each arm, in the order of their first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in results:
        groups.setdefault(run["arm"], []).append(run)
    return groups


def solved(run: Mapping[str, Any]) -> list[int]:
    """Of each held-out task, whether it was solved, in the order of their ids, which all runs have in common."""
    return [right for _, right in sorted(run["solved"])]


def draw(record: Mapping[str, Any], path: Path = PICTURE) -> Path:
    """The figure of the results: success by arm; what PPO's episodes were worth; how far it went from its start."""
    from matplotlib.ticker import PercentFormatter

    from sage.libs.finetune.agent.reporting.pictures import COLOURS, FAINT, clear_axes, new_figure, save_picture
    from sage.libs.finetune.agent.reporting.pictures import set_title as set_title_of

    colours = dict(zip(ARMS, COLOURS, strict=False))
    figure = new_figure(11.5, 4.0)
    left, middle, right = figure.subplots(1, 3)
    arms = record["summary"]
    for at, (name, found) in enumerate(arms.items()):
        low, high = found["interval"]
        left.bar(at, found["success"], color=colours[name], width=0.65)
        left.plot([at, at], [low, high], color="black", linewidth=1)
        left.annotate(f"{found['success']:.0%}", (at, high), (0, 3), "data", "offset points", ha="center", fontsize=9)
    left.set_xticks(range(len(arms)), [name.replace("_", " ") for name in arms], rotation=25, ha="right")
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    seeds = len(next(iter(arms.values()))["by_seed"])
    many = f"{seeds} seed" + ("s" if seeds > 1 else "")
    tasks = next(iter(arms.values()))["tasks"]
    set_title_of(left, "Held-out tasks solved", f"{tasks} tasks, {many}; 95% intervals (bootstrap)")
    for axes, figure_of in ((middle, "reward"), (right, "kl_per_episode")):
        for run in record["runs"]:
            values = run["curves"].get(figure_of)
            if values:
                played = [(at + 1) / len(values) for at in range(len(values))]
                first = run["seed"] == record["runs"][0]["seed"]
                label = run["arm"].replace("_", " ") if first else None
                axes.plot(played, values, color=colours[run["arm"]], linewidth=1.5, label=label)
        axes.set_xlabel("of the training episodes played")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    set_title_of(middle, "What training episodes were worth", "mean of an iteration's, drawn at temperature 1")
    set_title_of(right, "Nats from the start, an episode", f"collapsed: {COLLAPSED:g} or more")
    right.axhline(COLLAPSED, color=FAINT, linestyle=(0, (4, 2)), linewidth=1)
    for axes in (left, middle, right):
        clear_axes(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return save_picture(figure, path)


if __name__ == "__main__":
    main()
