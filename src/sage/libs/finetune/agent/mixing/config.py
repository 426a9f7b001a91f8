"""What is wanted of a mix. Standard library only, as every config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.registry import suggestion

STRATEGIES = ("weighted", "proportional", "temperature", "balanced", "round_robin", "curriculum", "eta")
"""The names of `mixing.strategies`, here so that a config can check its own without NumPy."""


@dataclass
class MixerConfig(Config):
    """Which tasks a mix is of, in which shares, and how large it is.

    **Size.** With `total_size` None the mix is as large as it must be for every row of every task to be in it at least
    once, so nothing is thrown away and nothing repeated more than the weights ask for; where that would repeat a row
    more than `max_repeats` times, it is the largest mix that does not. A `total_size` that would is lowered to that
    too: weights are kept, and the report says which task wanted how many rows.

    **Names.** A name in `task_weights` without a data set, a data set without a weight, and an empty data set with one
    are errors. A weight of 0 leaves a task out.

    Attributes:
        task_weights: Weight of each task, from 0 up; they need not sum to 1.
        strategy: `weighted`: shares are the weights. `proportional`: to the tasks' numbers of rows. `temperature`: to
            their `1 / temperature`-th power. `balanced`: equal. These three only ask a weight whether it is 0.
            `round_robin`: the weights, tasks taking turns. `curriculum`: stage after stage. `eta`: the weights, with
            `eta` given.
        shuffle: Whether rows come in random order. `round_robin` keeps the order of tasks, and `curriculum` that of
            stages; inside, rows are shuffled. Without, tasks follow each other (but for `round_robin`), and rows keep
            their order.
        seed: Fixes what is drawn.
        total_size: Rows of the mix; None as said above.
        max_repeats: How often a row may come at most, in passes over its task; 2.5 is two passes and half of a third.
        temperature: 1 is proportional, infinity would be balanced (T5, Raffel et al., 2020).
        stages: `curriculum`: a list of `{"weights": {task: weight}, "share": part of the mix}`, in their order; a
            stage without weights has `task_weights`, one without a share 1 (shares need not sum to 1).
        eta: Share of agent tasks in the mix against `general_tasks` (AgentTuning, Zeng et al., 2023: J = eta E_agent +
            (1 - eta) E_general, 0.2 in the paper). Within both, `strategy` decides.
        general_tasks: Names of the tasks that are general data.

    Raises:
        ConfigError: naming every faulty setting.

    Example:
        >>> config = MixerConfig({"planning": 0.7, "general": 0.3})
        >>> config.strategy, config.shuffle
        ('weighted', True)
        >>> MixerConfig({"planning": -1.0})
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: 'task_weights': the weight of 'planning' must be at least 0, not \
-1.0
    """

    task_weights: dict[str, float] = option(help="weight of each task; 0 leaves it out")
    strategy: str = option("weighted", f"how shares come about: {', '.join(STRATEGIES)}")
    shuffle: bool = option(True, "rows in random order")
    seed: int = option(0, "fixes what is drawn", low=0, high=2**32 - 1)
    total_size: int | None = option(None, "rows of the mix; every row at least once by default", low=1)
    max_repeats: float = option(4.0, "how often a row may come at most", low=1.0)
    temperature: float = option(2.0, "temperature: shares are sizes to the power of 1 / it", above=0.0)
    stages: list[dict[str, Any]] | None = option(None, "curriculum: weights and share of each stage", file_only=True)
    eta: float | None = option(None, "share of agent tasks against the general ones", low=0.0, high=1.0)
    general_tasks: list[str] | None = option(None, "names of the general tasks, separated by commas")

    @property
    def all_weights(self) -> list[Mapping[str, float]]:
        """The weights of each stage; `task_weights` alone where there are none."""
        return [stage.get("weights", self.task_weights) for stage in self.stages or ({},)]

    def conflicts(self) -> list[str]:
        """A strategy that is known, weights that are some, and the settings each strategy needs."""
        faults = weight_faults("'task_weights'", self.task_weights)
        if self.strategy not in STRATEGIES:
            near = suggestion(self.strategy, STRATEGIES)
            faults.append(f"'strategy': unknown strategy '{self.strategy}'; {near}known: {', '.join(STRATEGIES)}")
        if (self.strategy == "curriculum") != (self.stages is not None):
            faults.append("'stages' and strategy curriculum need each other; give both or neither")
        for number, stage in enumerate(self.stages or (), start=1):
            faults += _stage_faults(f"'stages', stage {number}", stage, self.task_weights)
        if self.stages is not None and not any(stage.get("share", 1) for stage in self.stages):
            faults.append("'stages': there is none, or every share is 0; give at least one")
        return faults + self._eta_faults()

    def _eta_faults(self) -> list[str]:
        if self.strategy == "eta" and self.eta is None:
            return ["'strategy' eta needs eta, the share of agent tasks (0.2 in AgentTuning)"]
        if (self.eta is None) != (self.general_tasks is None):
            return ["'eta' and 'general_tasks' need each other; give both or neither"]
        if self.eta is None or self.general_tasks is None:
            return []
        if self.strategy == "curriculum":
            return ["'eta' cannot be combined with strategy curriculum; give each stage its weights"]
        faults = [
            f"'general_tasks': no task is called '{name}'; {suggestion(name, self.task_weights)}".rstrip("; ")
            for name in self.general_tasks
            if name not in self.task_weights
        ]
        for part, share, general in (("agent", self.eta, False), ("general", 1 - self.eta, True)):
            named = [name for name in self.task_weights if (name in self.general_tasks) is general]
            if share and not any(self.task_weights[name] for name in named):
                faults.append(f"'eta' gives {share:g} to {part} tasks, and no {part} task has a weight above 0")
        return faults


def weight_faults(where: str, weights: Mapping[str, float]) -> list[str]:
    """What is wrong with weights; `where` begins each line.

    Example:
        >>> weight_faults("weights", {"a": 0.0})
        ['weights: no weight is above 0; give at least one task a share']
    """
    faults = [
        f"{where}: the weight of '{name}' must be at least 0, not {weight}"
        for name, weight in weights.items()
        if weight < 0
    ]
    if not faults and not any(weights.values()):
        faults.append(f"{where}: no weight is above 0; give at least one task a share")
    return faults


def _stage_faults(where: str, stage: Mapping[str, Any], tasks: Mapping[str, float]) -> list[str]:
    known = ("weights", "share")
    faults = [f"{where}: unknown '{name}'; a stage has weights and share" for name in stage if name not in known]
    share, weights = stage.get("share", 1), stage.get("weights", tasks)
    if not _is_weight(share):
        faults.append(f"{where}: 'share': expected a number from 0 up, found {share!r:.60}")
    if not isinstance(weights, Mapping) or not all(_is_weight(weight) for weight in weights.values()):
        return [*faults, f"{where}: 'weights': expected a mapping of task to a number from 0 up"]
    faults += [
        f"{where}: '{name}' is not in task_weights; {suggestion(str(name), tasks)}".rstrip("; ")
        for name in weights
        if name not in tasks
    ]
    return faults + weight_faults(where, weights)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)
