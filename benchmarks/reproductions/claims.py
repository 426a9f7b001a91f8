"""What was met of the papers' claims, from a result alone: one function for each reproduction, named as its file.

A claim is met, not met, or not shown: then the result is compatible with both, and more items or seeds would be needed.
What sets one training against another is not shown by one seed of each, whatever its items say: luck of training is in
no interval of theirs.
Figures of a paper are for its own models and tasks; what is claimed here is the direction, and the size where said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sage.libs.finetune.agent.evaluation.statistics import hierarchical_bootstrap, wilson_interval

Result = Mapping[str, Any]

WITHIN = 0.02
"""Difference in score that passes for none: rates being tuned, variants of LoRA lie within 2% (2602.04998)."""


@dataclass(frozen=True)
class Claim:
    """A claim and what came of it.

    Attributes:
        text: What is claimed, with the paper's figure.
        ours: What was measured.
        met: Whether it holds here; None when the result cannot say.
    """

    text: str
    ours: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "met", False: "not met", None: "not shown"}[self.met]


def markdown(rows: Sequence[Claim]) -> str:
    """A table."""
    lines = ["| claimed | here | |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.text} | {row.ours} | {row.verdict} |" for row in rows)])


def in_words(rows: Sequence[Claim]) -> str:
    """For a terminal."""
    return "\n".join(f"{row.verdict:>9}  {row.text}\n{'':>9}  here: {row.ours}" for row in rows)


def r1_fireact(result: Result) -> list[Claim]:
    """Gain, curve, faulty tools, cost."""
    arms = _by_arm(result["arms"])
    tuned = [name for name in arms if name.startswith("tuned-")]
    least, most = tuned[0], tuned[-1]
    before, after = _success(arms["prompted"]), _success(arms[most])
    gain = f"{after.mean / before.mean - 1:+.0%}" if before.mean else "from nothing"
    curve = ", ".join(f"{name.rpartition('-')[2]}: {_success(arms[name]).mean:.1%}" for name in tuned)
    tokens, time = result["prompt_tokens"], {name: _seconds(arms[name]) for name in ("prompted", most)}
    saved = 1 - time[most] / time["prompted"]
    return [
        Claim(
            "500 trajectories beat few-shot prompting by 77% (14.8 to 26.2 exact match)",
            f"{before.text} to {after.text}, {gain}",
            _more(_solved(arms[most]), _solved(arms["prompted"], times=1.77)),
        ),
        Claim(
            "more trajectories are better, up to 500",
            curve,
            _of_seeds(len(arms[most]), _more(_solved(arms[most]), _solved(arms[least]))),
        ),
        _drop(arms, most, "none", 0.142, 0.338),
        _drop(arms, most, "random", 0.051, 0.280),
        Claim(
            "a task takes 70% less time (9.0 s to 2.7 s)",
            f"{time['prompted']:.2f} s to {time[most]:.2f} s, {-saved:+.0%}; first prompt {tokens['prompted']:.0f} to "
            f"{min(tokens.values()):.0f} tokens",
            saved >= 0.7,
        ),
        _hardened(arms, most),
    ]


def r2_agenttuning(result: Result) -> list[Claim]:
    """What agent rows alone cost, and what a fifth of them keeps."""
    methods = result["grids"]["mixtures"]["methods"]
    base = result["untrained"]
    alone = methods["agent_only"]["scores"]
    curve = ", ".join(f"{name} {found['scores']['general']:.1%}" for name, found in methods.items())
    agents = ", ".join(f"{name} {found['scores']['agent']:.1%}" for name, found in methods.items())
    contrast = _contrast(result["grids"]["mixtures"]["contrasts"]["general"], "eta_0.2")
    return [
        Claim(
            "trained on agent rows alone, a model loses more than half of its general abilities",
            f"general score {base['general']:.1%} as it came, {alone['general']:.1%} after",
            _below(_contrast(result["against_untrained"]["general"], "agent_only"), 0.5),
        ),
        Claim(
            "with a fifth of agent rows it keeps them (within 7%)",
            f"general: {curve}; eta 0.2 against agent only {_signed(contrast)}",
            _not(_below(_contrast(result["against_untrained"]["general"], "eta_0.2"), 0.93)),
        ),
        Claim(
            "and is as good an agent: at least 90% of agent only",
            f"agent: as it came {base['agent']:.1%}, {agents}",
            _of_seeds(
                methods["agent_only"]["seeds"],
                _not(_below(_contrast(result["grids"]["mixtures"]["contrasts"]["agent"], "eta_0.2"), 0.9)),
            ),
        ),
    ]


def r3_dora(result: Result) -> list[Claim]:
    """At one rate for both, and each at its own."""
    fixed, tuned = (_contrast(result["grids"][name]["contrasts"]["all"], "dora_half") for name in ("fixed", "tuned"))
    low, high = tuned["interval"]["low"], tuned["interval"]["high"]
    seeds = result["grids"]["tuned"]["methods"]["dora_half"]["seeds"]
    return [
        Claim(
            "DoRA at half the rank is at least as good as LoRA, at one learning rate for both",
            _lora_and_dora(fixed, result["grids"]["fixed"]["methods"]),
            _of_seeds(seeds, _shown(True, fixed["interval"]["low"] >= -WITHIN, fixed["interval"]["high"] < 0)),
        ),
        Claim(
            "with a tuned rate each, the two are within 2 points",
            _lora_and_dora(tuned, result["grids"]["tuned"]["methods"]),
            _of_seeds(seeds, _shown(True, low >= -WITHIN and high <= WITHIN, low > WITHIN or high < -WITHIN)),
        ),
    ]


def r4_lora_plus(result: Result) -> list[Claim]:
    """Steps, and where it ends."""
    lora, plus = result["steps_of_lora"], result["steps_of_lora_plus_for_it"]
    ends = result["lora_final_eval_loss"], result["lora_plus_final_eval_loss"]
    reached = f"{plus} of {lora} steps" if plus is not None else f"not within {lora} steps"
    return [
        Claim(
            "LoRA's final loss is reached in half to two thirds of the steps, each at its best rate",
            reached,
            _of_seeds(1, plus is not None and plus <= 0.67 * lora),
        ),
        Claim(
            "it ends at least as well",
            f"held-out loss: LoRA {ends[0]:.4f}, LoRA+ {ends[1]:.4f}",
            _of_seeds(1, ends[1] <= ends[0]),
        ),
    ]


def r5_coreset(result: Result) -> list[Claim]:
    """The highest losses, and difficulty with coverage."""
    score = {(one["arm"], one["budget"]): one["accuracy"] for one in result["summary"]}
    difference = {(one["arm"], one["budget"], one["minus"]): one for one in result["differences"]}
    least, most = min(budget for _, budget in score if budget), max(budget for _, budget in score if budget)
    loss, ours = difference["loss_topk", least, "random"], difference["recommended", least, "random"]
    full = difference["recommended", most, "full"]
    return [
        Claim(
            f"rows with the highest losses are worse than random ones ({least:.0%} of the pool; 0.26 to 0.94 at 5%)",
            f"{score['loss_topk', least]:.1%} to {score['random', least]:.1%}, {_between(loss)}",
            _shown(loss["difference"] < 0, loss["interval"][1] < 0, loss["interval"][0] > 0),
        ),
        Claim(
            "difficulty within a band (IFD) is better than random (1.13 to 0.94 at 5%)",
            f"ifd_diversity {score['recommended', least]:.1%} to {score['random', least]:.1%}, {_between(ours)}",
            _shown(ours["difference"] > 0, ours["interval"][0] > 0, ours["interval"][1] < 0),
        ),
        Claim(
            f"{most:.0%} well chosen do as well as all, within a point",
            f"{score['recommended', most]:.1%} to {score['full', None]:.1%}, {_between(full)}",
            _shown(full["difference"] >= -0.01, full["interval"][0] >= -0.01, full["interval"][1] < -0.01),
        ),
    ]


def r6_continual(result: Result) -> list[Claim]:
    """What is lost without replay, and how much of that replay saves."""
    even, uneven = result["summary"]["even"], result["summary"]["10:1"]
    alone = even["none"]["backward_transfer"]["mean"]
    lost = {name: found["backward_transfer"]["mean"] for name, found in even.items() if "backward_transfer" in found}
    rows = [
        Claim(
            "tasks one after another unlearn earlier ones (-13.9 points)",
            f"{100 * alone:+.1f} points",
            alone < -0.05,
        ),
        Claim(
            "a quarter of replayed rows saves at least 70% of it",
            f"{1 - lost['reservoir'] / alone:.0%} ({100 * lost['reservoir']:+.1f} points)",
            _of_seeds(even["reservoir"]["n"], 1 - lost["reservoir"] / alone >= 0.7),
        ),
    ]
    if "on_policy" in lost:
        rows.append(
            Claim(
                "on-policy replay loses at most 0.6 of what replay does (46% less)",
                f"{100 * lost['on_policy']:+.1f} against {100 * lost['balanced']:+.1f} points",
                _of_seeds(even["on_policy"]["n"], lost["on_policy"] >= 0.6 * lost["balanced"]),
            )
        )
    kept = {name: uneven[name]["backward_transfer"]["mean"] for name in ("reservoir", "balanced")}
    rows.append(
        Claim(
            "where a task has ten times the rows, equal shares keep more than a uniform sample",
            f"{100 * kept['balanced']:+.1f} against {100 * kept['reservoir']:+.1f} points",
            _of_seeds(uneven["balanced"]["n"], kept["balanced"] > kept["reservoir"]),
        )
    )
    return rows


@dataclass(frozen=True)
class _Success:
    """Over seeds; the interval is Wilson's for all of their tasks together."""

    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.mean:.1%} ({100 * self.low:.0f}-{100 * self.high:.0f})"


def _by_arm(found: Sequence[Result]) -> dict[str, list[Result]]:
    arms: dict[str, list[Result]] = {}
    for one in found:
        arms.setdefault(one["arm"], []).append(one)
    return arms


def _success(runs: Sequence[Result], fault: str = "whole") -> _Success:
    solved = [int(right) for row in _solved(runs, fault) for right in row]
    interval = wilson_interval(sum(solved), len(solved))
    return _Success(fmean(solved), interval.low, interval.high)


def _solved(runs: Sequence[Result], fault: str = "whole", times: float = 1.0) -> list[list[float]]:
    """By seed, then task. Who solves nothing with whole tools was not tried with faulty ones, and loses nothing."""
    return [[times * right for _, right in run.get(fault, run["whole"])["solved"]] for run in runs]


def _more(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool | None:
    """Whether the mean of the first is above the second's; None when it may be either, by tasks and seeds drawn."""
    found = hierarchical_bootstrap(own, other).interval
    return _shown(True, found.low > 0, found.high < 0)


def _seconds(runs: Sequence[Result]) -> float:
    return fmean(run["whole"]["seconds_per_task"] for run in runs)


def _lost(runs: Sequence[Result], fault: str) -> float | None:
    """Share of the successes with whole tools; None when there are none."""
    whole = _success(runs).mean
    return 1 - _success(runs, fault).mean / whole if whole else None


def _drop(arms: Mapping[str, Sequence[Result]], most: str, fault: str, claimed: float, prompting: float) -> Claim:
    ours, prompted = _lost(arms[most], fault), _lost(arms["prompted"], fault)
    said = {"none": "nothing", "random": "something else"}[fault]
    beside = f"prompting {prompted:.1%}" if prompted is not None else "prompting solves nothing to lose"
    return Claim(
        f"tools that say {said} half of the time cost {claimed:.1%} of the successes (prompting {prompting:.1%})",
        f"{ours:.1%}; {beside}" if ours is not None else "no successes to lose",
        None if ours is None else _more(_solved(arms[most], fault), _solved(arms[most], times=1 - claimed)),
    )


def _hardened(arms: Mapping[str, Sequence[Result]], most: str) -> Claim:
    drops = {fault: (_lost(arms["hardened"], fault), _lost(arms[most], fault)) for fault in ("none", "random")}
    clean, plain = _success(arms["hardened"]), _success(arms[most])
    told = ", ".join(
        f"{fault} {hard:.1%} against {usual:.1%}"
        for fault, (hard, usual) in drops.items()
        if hard is not None and usual is not None
    )
    parts = [
        _more(
            _plus(_solved(arms["hardened"], fault), _solved(arms["hardened"], times=-1.0)),
            _plus(_solved(arms[most], fault, 0.5), _solved(arms[most], times=-0.5)),
        )
        for fault in drops
    ]
    parts.append(_more([[one + WITHIN for one in row] for row in _solved(arms["hardened"])], _solved(arms[most])))
    return Claim(
        "ours: trajectories from faulty tools halve both losses, at equal success with whole ones",
        f"{told}; whole tools {clean.text} against {plain.text}",
        _of_seeds(len(arms[most]), False if False in parts else None if None in parts else True),
    )


def _plus(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _shown(as_claimed: bool, certain: bool, contrary: bool) -> bool | None:
    """Met when it is as claimed and beyond chance; not met when the contrary is, or chance is no excuse."""
    if certain:
        return as_claimed
    return False if contrary else None


def _of_seeds(seeds: int, found: bool | None) -> bool | None:
    """A difference between two trainings, or none, may be luck where each was done once."""
    return found if seeds > 1 else None


def _below(contrast: Result, share: float) -> bool | None:
    """Whether a score is below this share of what it is compared with; None when it may be, or that is 0."""
    limit, interval = (share - 1) * contrast["baseline"], contrast["interval"]
    return _shown(True, interval["high"] < limit, interval["low"] > limit) if contrast["baseline"] else None


def _not(found: bool | None) -> bool | None:
    return None if found is None else not found


def _contrast(found: Sequence[Result], method: str) -> Result:
    return next(one for one in found if one["method_id"] == method)


def _signed(contrast: Result) -> str:
    low, high = contrast["interval"]["low"], contrast["interval"]["high"]
    return f"{100 * contrast['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _lora_and_dora(contrast: Result, methods: Mapping[str, Result]) -> str:
    rates = ", ".join(_rates(methods[name]["learning_rates"]) for name in ("A_baseline", "dora_half"))
    return f"LoRA {contrast['baseline']:.1%}, DoRA {contrast['score']:.1%}: {_signed(contrast)}; rates {rates}"


def _between(found: Result) -> str:
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _rates(used: Sequence[float]) -> str:
    return "/".join(f"{rate:g}" for rate in sorted(set(used)))
