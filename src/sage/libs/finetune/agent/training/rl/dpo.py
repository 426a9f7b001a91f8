"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) of agents, on TRL's `DPOTrainer`.

With log pi(y) the sum over the tokens the assistant wrote in the chosen or rejected conversation, and beta = kl_coef,

    loss = -log sigmoid(beta * ((log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))))

TRL counts every token after the prompt, what the environment said as well. Ours come with a mask of the assistant's own
(`pairs`), as in ETO (Song et al. 2024, arXiv:2403.02502): observations are in no sum, and no gradient comes from them.

A round is ETO's: the policy explores, is paired with itself and the expert, and learns; the reference is the policy as
the round began. Its log-probabilities are computed once, before the first step, and kept in the run folder: in no step
is there a second forward pass, and a resumed run has the same reference. Each round has an optimiser and a schedule of
its own. `gamma` has no part in it: DPO compares whole episodes, however their rewards lie in time.

What TRL does to a model (a fused head, a copy of the adapter, dropout switched off) is undone in the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.checkpoints import read_states, remove_leftovers
from sage.libs.finetune.agent.training.rl.context import RLContext, RLOutcome
from sage.libs.finetune.agent.training.rl.pair_trainer import Course, PairTrainer, as_found
from sage.libs.finetune.agent.training.rl.pairs import (
    LEFT_OUT,
    TokenPair,
    counts_of_rounds,
    pairs_of_round,
    require_expert,
    round_file,
)

logger = logging.getLogger(__name__)

_LOGGED = {
    "rewards/accuracies": "accuracy", "rewards/margins": "margin", "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward", "logps/chosen": "chosen_logps", "logps/rejected": "rejected_logps",
    "kl": "kl_on_pairs", "entropy": "entropy", "grad_norm": "grad_norm", "learning_rate": "learning_rate",
}  # fmt: skip
"""TRL's names of figures, and ours."""
_WHY = {
    "pairs": "pairs found", "episodes": "episodes played", "broken": "of them broke off",
    "without_room": "without room for a turn", "unreadable": "without one turn that can be read",
    "unjudged": "not judged", "tasks": "tasks with an episode to compare", "both": "with a success and a failure",
    "only_successes": "without a failure", "only_failures": "without a success",
    "same": "pairs dropped since both sides say the same",
    "too_close": "pairs dropped since the failure was rewarded more",
}  # fmt: skip
"""What a round without pairs says of each count that is not 0."""


def train_dpo(
    loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, checkpoint: Path | None = None
) -> RLOutcome:
    """Train the policy in place, for at most `rounds` rounds; a later round without pairs ends the run.

    Args:
        loaded: The policy; what of it requires a gradient is trained.
        config: Its settings.
        context: Tasks, environment, reward, run folder, log.
        checkpoint: Where to go on from, None to begin.

    Raises:
        ConfigError: for an expert that is not there.
        DataError: when there is no pair to learn from, or a file holds something else than pairs.
        TrainingError: when all episodes break off, a reward or loss is not finite, or a checkpoint cannot be written.
    """
    require_expert(config, context)
    remove_leftovers(context.folder)
    course = Course()
    if checkpoint is not None:
        read_states(checkpoint, {"dpo": course.kept()})
    context.log.drop_after(len(course.losses))
    ended = False
    while not ended and not context.stop():
        pairs = pairs_of_round(loaded, config, context, course.round)
        if not pairs:
            _tell_of_no_pairs(context.folder, course.round)
            ended = True
        elif _learn(loaded, config, context, pairs, course, checkpoint):
            ended = course.round == config.rounds
            course.round, course.steps_before, checkpoint = course.round + 1, len(course.losses), None
    return RLOutcome(
        losses=course.losses, steps=len(course.losses), tokens_seen=course.tokens_seen,
        tokens_trained=course.tokens_trained, interrupted=not ended,
        figures={"rounds": counts_of_rounds(context.folder), "kl_coef": config.kl_coef},
    )  # fmt: skip


class _Steps(TrainerCallback):
    """Logs each step under our names, and ends training when the run was asked to stop."""

    def __init__(self, context: RLContext, course: Course) -> None:
        self._context, self._course = context, course
        self._began, self._tokens = time.perf_counter(), course.tokens_seen

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line an optimiser step; the first of a round also says how exploring went."""
        if not logs or "loss" not in logs:
            return
        course, now = self._course, time.perf_counter()
        course.losses.append(logs["loss"])
        figures = {"loss": logs["loss"], **{ours: logs[name] for name, ours in _LOGGED.items() if name in logs}}
        if state.global_step == 1:
            explored = counts_of_rounds(self._context.folder)[course.round - 1]
            figures |= {name: explored[name] for name in ("reward", "success", "steps_per_episode") if name in explored}
        figures |= {
            "round": course.round, "tokens_per_second": (course.tokens_seen - self._tokens) / (now - self._began),
            "seconds": now - self._began,
        }  # fmt: skip
        self._began, self._tokens = now, course.tokens_seen
        self._context.log.step(len(course.losses), course.steps_before + state.max_steps, figures)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop, unless this was the last step anyway."""
        if self._context.stop() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def _learn(
    loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, pairs: Sequence[TokenPair], course: Course,
    checkpoint: Path | None,
) -> bool:  # fmt: skip
    """One round's training, from its first step or from a checkpoint; whether it came to its end."""
    with as_found(loaded.model):
        trainer = PairTrainer(loaded, config, context.folder, pairs, course, [_Steps(context, course)])
        trainer.remember_reference(round_file(context.folder, course.round).with_suffix(".reference.json"))
        trainer.train_from(checkpoint)
    return bool(trainer.state.global_step >= trainer.state.max_steps)


def _tell_of_no_pairs(folder: Path, number: int) -> None:
    """Say why a round has none; for the first one that is an error."""
    counts = counts_of_rounds(folder)[number - 1]
    said = [f"{counts[name]} {meaning}" for name, meaning in _WHY.items() if counts.get(name) or name == "pairs"]
    said += [f"{count} left out: {LEFT_OUT[reason]}" for reason, count in counts["left_out"].items() if count]
    text = f"round {number}: no pair to learn from ({', '.join(said)})"
    if number > 1:
        logger.warning("%s; the run ends with round %d", text, number - 1)
        return
    raise DataError(
        f"{text}; raise samples_per_task or num_tasks, give an expert for what was never solved, or begin with a model "
        "that solves some tasks and fails at others"
    )
