"""GRPO and RLOO: an episode is as good as it is better than others of its task. The loop and the loss are TRL's.

Of each task G = `samples_per_task` episodes are played; with r_i what episode i was worth,

    GRPO    A_i = (r_i - mean(r)) / (std(r) + 1e-4)                  (Shao et al. 2024, arXiv:2402.03300)
    RLOO    A_i = r_i - mean of the others = G / (G - 1) (r_i - mean(r))  (Ahmadian et al. 2024, arXiv:2402.14740)

and every token that the policy wrote in episode i has the advantage A_i: there is no value head, no turn and no gamma.
The loss of an optimiser step, with ratio = pi / pi_old of a token and d = log pi_ref - log pi,

    sum over tokens of  -min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A) + kl_coef (exp(d) - d - 1)

over the tokens of an average minibatch: TRL's default ("dapo", Yu et al. 2025, arXiv:2503.14476), in which a token
counts the same in a long and in a short episode. The mean of an episode's tokens, as in GRPO's paper, would punish long
failures less. RLOO takes the same loss, where its paper has the ratio of whole episodes and the KL in the reward: at
ratio 1 the gradient of the first is the same, and the KL is in one place for both algorithms.

Why both are TRL's `GRPOTrainer`: its `RLOOTrainer` (1.16) plays no environments of ours. It is given r_i - mean(r), for
RLOO G / (G - 1) times that and no division by a deviation, which is the leave-one-out advantage exactly.

What is not TRL's: episodes (`rollouts.play`, token by token what the policy read and wrote; what it did not write has
`env_mask` 0 and is in no loss and no KL), the forward pass (`models/policy.py`, that of training and PPO), and the
reference, which is the policy as reinforcement found it: an adapter that was trained before is kept, a fresh one adds
nothing. An episode that broke off has no reward, is in no mean, and moves nothing. Groups whose episodes were all worth
the same teach nothing and are counted. Probabilities are those at the temperature of play, and the policy learns in
evaluation mode, without dropout, as in PPO.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.grpo_trainer import GRPOTrainer

from sage.libs.finetune.agent.models.batches import BatchForm, on_device
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.policy import Reference, policy_outputs
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.training.checkpoints import Attributes, read_states, remove_leftovers
from sage.libs.finetune.agent.training.guards import StepGuard
from sage.libs.finetune.agent.training.rl.context import RLContext, RLOutcome
from sage.libs.finetune.agent.training.rl.groups import (
    beyond_the_group,
    group_arguments,
    grouped_episodes,
    steps_per_iteration,
)
from sage.libs.finetune.agent.training.rl.rollouts import Played, Rollout, play
from sage.libs.finetune.agent.training.saving import DraftedCheckpoints
from sage.libs.finetune.agent.trajectories.dialogue import sample_of


def train_grpo(
    loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, checkpoint: Path | None = None
) -> RLOutcome:
    """Train the policy in place, by GRPO or RLOO as `config.algorithm` says.

    Args:
        loaded: The policy; what of it requires a gradient is trained.
        config: Its settings.
        context: Tasks, environment, reward, run folder, log.
        checkpoint: Where to go on from, None to begin.

    Raises:
        TrainingError: when all episodes break off, a reward or loss is not finite, or a checkpoint cannot be written.
    """
    trainer = GroupTrainer(loaded, config, context)
    trainer.train_from(checkpoint)
    state = trainer.state
    return RLOutcome(
        losses=[entry["loss"] for entry in state.log_history if "loss" in entry], steps=state.global_step,
        tokens_seen=trainer.tokens_seen, tokens_trained=trainer.tokens_trained,
        interrupted=state.global_step < state.max_steps,
        figures={"iterations": state.global_step // steps_per_iteration(config), "kl_coef": config.kl_coef},
    )  # fmt: skip


class GroupTrainer(DraftedCheckpoints, GRPOTrainer):
    """TRL's trainer on our episodes.

    Its steps are optimiser steps; an iteration plays once and takes `steps_per_iteration` of them. It logs, saves and
    stops between iterations only, since no checkpoint holds the episodes that a step learns from.

    Attributes:
        tokens_seen: Tokens of the episodes learned from, once for each epoch.
        tokens_trained: Those of them that the policy wrote.
        began: When the current iteration did, by `time.perf_counter`.
        figures: What is known of it so far.
    """

    figures: dict[str, float | int]

    def __init__(self, loaded: LoadedModel, config: RLTrainingConfig, context: RLContext) -> None:
        self._loaded, self._config, self._context = loaded, config, context
        self.run_folder, self.save_total_limit = context.folder, config.save_total_limit
        self.tokens_seen = self.tokens_trained = 0
        self.began, self.figures = time.perf_counter(), {}
        self._form = BatchForm(loaded.model, loaded.tokenizer.pad_token_id or 0)
        self._guard = StepGuard(context.folder)
        groups = config.episodes_per_iteration // config.samples_per_task
        iterations = [str(number) for number in range(1, config.iterations + 1) for _ in range(groups)]
        rewards: Any = context.reward.score  # for its name: `_play` asks it
        own = vars(base_model(loaded.model))
        forward = own.get("forward")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that rollout functions may change, and of names that TRL itself uses
            super().__init__(
                model=loaded.model, reward_funcs=rewards, args=group_arguments(config),
                train_dataset=Dataset.from_dict({"prompt": iterations}), processing_class=loaded.tokenizer,
                callbacks=[_Iterations(self, config, context)],
                rollout_func=lambda prompts, _: self._play(int(prompts[0])),
            )  # fmt: skip
        own.pop("forward")  # TRL's own, which computes log-probabilities as well; ours are `policy_outputs`
        if forward is not None:
            own["forward"] = forward
        self.remove_callback(PrinterCallback)  # it prints on stdout, which is for results
        # Given to TRL as arguments, these two would make it load the base model again, or add a second adapter.
        self._reference = Reference(loaded.model)
        self.beta, self.ref_model = config.kl_coef, self._reference  # type: ignore[assignment]
        self.kept = {"reference": self._reference, "tokens": Attributes(self, "tokens_seen", "tokens_trained")}

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, or go on from a checkpoint; one of the last step is loaded and nothing more is done."""
        remove_leftovers(self.run_folder)
        done = _step_of(checkpoint) if checkpoint else 0
        self._context.log.drop_after(done // steps_per_iteration(self._config))
        if checkpoint is not None:
            read_states(checkpoint, self.kept)
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        with self._form.attention(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL asks by the old name
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the run folder has a card of its own."""

    def _send_telemetry(self) -> None:
        """Nothing: TRL would tell its authors that it was used."""

    def _play(self, number: int) -> dict[str, Any]:
        """The episodes of an iteration, as TRL takes them: group by group, those that are missing as one unread token.

        `reward` is None where there is no episode.
        """
        config, context = self._config, self._context
        self.began = time.perf_counter()
        tasks = grouped_episodes(context.tasks, config, number)
        played = play(
            self._loaded, tasks, context.make_environment, max_steps=config.max_steps,
            max_new_tokens=config.max_new_tokens, max_length=config.max_seq_length, temperature=config.temperature,
            seed=f"{config.seed} {number}", batch_size=config.eval_batch_size, progress=context.progress,
        )  # fmt: skip
        rollouts = played.rollouts
        scores = context.reward.score([rollout.trajectory for rollout in rollouts])
        at = {_name(rollout.trajectory.task_id, rollout.trajectory.metadata): i for i, rollout in enumerate(rollouts)}
        places = [at.get(_name(task["task_id"], task["metadata"])) for task in tasks]
        found = [None if place is None else rollouts[place] for place in places]
        rewards = [None if place is None else scores[place] for place in places]
        self._count(played, scores, rewards)
        context.log.episodes(number, [rollout.trajectory for rollout in rollouts])
        unread = self._loaded.tokenizer.pad_token_id or 0
        return {
            "prompt_ids": [[unread] if one is None else one.ids[: one.prompt_length] for one in found],
            "completion_ids": [[unread] if one is None else one.ids[one.prompt_length :] for one in found],
            "env_mask": [[0] if one is None else _written(one) for one in found],
            "reward": beyond_the_group(rewards, config.samples_per_task, leave_one_out=config.algorithm == "rloo"),
            "logprobs": None,  # of what was sampled; TRL needs them for vLLM alone
        }

    def _calculate_rewards(self, inputs: Sequence[Mapping[str, Any]], *_: Any) -> Tensor:
        """[episodes, 1], as `_play` gave them; what is no number is in no mean."""
        rewards = [row["reward"] for row in inputs]
        paid = [[math.nan if reward is None else reward] for reward in rewards]
        return torch.tensor(paid, dtype=torch.float32, device=self.accelerator.device)

    def _count(self, played: Played, scores: Sequence[float], rewards: Sequence[float | None]) -> None:
        rollouts, size = played.rollouts, self._config.samples_per_task
        groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
        self.tokens_seen += self._config.num_epochs * sum(len(rollout.ids) for rollout in rollouts)
        self.tokens_trained += self._config.num_epochs * played.tokens
        self.figures = {
            "reward": fmean(scores),
            "success": fmean(rollout.trajectory.success for rollout in rollouts),
            "episodes": len(rollouts),
            "broken": played.broken,
            "too_long": played.too_long,
            "cut_off": sum(rollout.truncated for rollout in rollouts),
            "steps_per_episode": fmean(len(rollout.turns) for rollout in rollouts),
            "tokens_per_second": played.tokens / max(played.seconds, 1e-9),
            "groups": len(groups),
            "groups_without_variance": sum(len({reward for reward in group if reward is not None}) < 2
                                           for group in groups),
        }  # fmt: skip

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch of an iteration, with what TRL leaves out where its loss does not need it."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        sequences = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        kept, size = batch["completion_ids"].shape[1], self.args.per_device_train_batch_size
        for name, model in (("old_per_token_logps", self.model), ("ref_per_token_logps", self._reference)):
            if name not in batch:
                with torch.no_grad():
                    batch[name] = self._get_per_token_logps_and_entropies(model, sequences, attended, kept, size)[0]
        written = batch["completion_mask"] * batch["tool_mask"]
        kl = float(((batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * written).sum())
        self.figures |= {
            "kl_per_episode": kl / self.figures["episodes"], "kl_per_token": kl / int(written.sum()),
            "kl_coef": self.beta,
        }  # fmt: skip
        # TRL now mixes the episodes, by the global generator: a resumed run is to mix them the same way.
        torch.manual_seed(random.Random(f"minibatches {self._config.seed} {self.state.global_step}").getrandbits(63))
        return batch

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:  # fmt: skip
        """Log-probabilities and entropies of the last `logits_to_keep` tokens, 0 for padding, by our forward pass."""
        if model is self._reference:
            with self._reference.in_place():
                return self._get_per_token_logps_and_entropies(
                    self.model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy
                )
        real = attention_mask.bool()
        asked = real.clone()
        asked[:, :-logits_to_keep] = False
        labels = input_ids.masked_fill(~asked, IGNORED)
        rows = [
            {"input_ids": ids[here].tolist(), "labels": wanted[here].tolist()}
            for ids, wanted, here in zip(input_ids, labels, real, strict=True)
        ]
        size = batch_size or len(rows)
        model.eval()
        parts = [
            policy_outputs(model, on_device(self._form(rows[start : start + size]), input_ids.device),
                           entropy=compute_entropy, temperature=self.temperature)
            for start in range(0, len(rows), size)
        ]  # fmt: skip
        model.train()  # TRL takes the mode for what it is to do
        asked = asked[:, -logits_to_keep:]

        def placed(values: Sequence[Tensor]) -> Tensor:
            whole = torch.cat(list(values))
            return whole.new_zeros(asked.shape).masked_scatter(asked, whole)

        entropies = placed([part.entropy for part in parts if part.entropy is not None]) if compute_entropy else None
        return placed([part.logps for part in parts]), entropies, None

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        """TRL's, seen by the guard."""
        loss = super().compute_loss(*arguments, **options)
        self._guard.saw(loss, None)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float | None:
        """The norm; a step that is no number is not made."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        return self._guard.check(self.state.global_step + 1, norm)


class _Iterations(TrainerCallback):
    """Between iterations: the line of the one that ended, and the end of the run if it was asked for."""

    def __init__(self, trainer: GroupTrainer, config: RLTrainingConfig, context: RLContext) -> None:
        self._trainer, self._config, self._context = trainer, config, context
        self._steps = steps_per_iteration(config)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop, if it was asked for."""
        ended = state.global_step % self._steps == 0
        if ended and self._context.stop() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        """One line an iteration; the trackers behind see the same."""
        if logs is None or "loss" not in logs:
            return
        figures = {
            **self._trainer.figures,
            "loss": logs["loss"],
            "entropy": logs["entropy"],
            "clip_share": logs["clip_ratio/region_mean"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "optimizer_steps": self._steps,
            "seconds": time.perf_counter() - self._trainer.began,
        }
        self._context.log.step(state.global_step // self._steps, self._config.iterations, figures)
        logs.clear()
        logs.update(figures)


def _written(rollout: Rollout) -> list[int]:
    """1 for each token after the prompt that the policy wrote."""
    return [int(label != IGNORED) for label in rollout.labels[rollout.prompt_length :]]


def _name(task_id: str, metadata: Mapping[str, Any]) -> tuple[str, int]:
    return task_id, sample_of({"metadata": metadata})


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])
