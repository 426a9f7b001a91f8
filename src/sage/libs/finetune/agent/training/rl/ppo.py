"""Proximal policy optimisation for agents (Schulman et al. 2017, arXiv:1707.06347), on whole episodes.

An iteration:

1. play episodes with the policy as it is (`rollouts.play`);
2. score them (`rewards`), and write down, before anything is learned, what the policy thought of its own tokens (log
   pi_old), what the reference thinks of them (log pi_ref), and the values;
3. reward of a step = the environment's, minus kl_coef times the estimated KL to the reference (Ziegler et al. 2019,
   arXiv:1909.08593), plus the episode's score at its last step; advantages by GAE over turns, or over tokens;
4. for some epochs, in minibatches of whole episodes: the clipped surrogate on every token the policy wrote, the clipped
   value loss, an entropy bonus if wanted. An iteration's learning ends early when the policy has moved `max_kl` nats an
   episode from where it played.

Advantages are whitened, by their own spread or by nine tenths of the one before, if that is more (our deviation): once
all episodes succeed, what is left of the advantages is the error of the values, and lifted to variance 1 it would send
a finished policy astray in one iteration.

The policy is what plays: its distribution at the temperature of playing, and the reference's is taken at the same one.
It is in evaluation mode throughout: with dropout the ratio of an unchanged policy would not be 1. Nothing depends on a
global random state, so a run that goes on from a checkpoint takes the very steps of one never stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.models.adapters import require_finite
from sage.libs.finetune.agent.models.batches import BatchForm, on_device
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.policy import PolicyOutputs, Reference, ValueHead, policy_outputs
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.checkpoints import (
    CHECKPOINTS,
    drafted,
    read_states,
    remove_leftovers,
    write_states,
)
from sage.libs.finetune.agent.training.rl.advantages import (
    AdaptiveKL,
    deviation,
    explained_variance,
    kl_estimate,
    whiten,
)
from sage.libs.finetune.agent.training.rl.context import RLContext, RLOutcome
from sage.libs.finetune.agent.training.rl.lessons import Lesson, episodes_of, lesson
from sage.libs.finetune.agent.training.rl.objectives import clipped_policy_loss, clipped_value_loss
from sage.libs.finetune.agent.training.rl.rollouts import Played, Rollout, play

_VALUE_STEP = 0.05
"""What an optimiser step may move a value by, about: Adam moves each weight of the value head by its rate, whatever the
gradient, and the states it reads have entries of about 1. The policy's own rate is for weights that are not new."""

_BATCH_TOKENS = 4096
"""Tokens computed at once, those that episodes have in common counted for each."""
_FADING = 0.9
"""How much of the advantages' spread is still thought possible an iteration later."""


def train_ppo(
    loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, checkpoint: Path | None = None
) -> RLOutcome:
    """Train the policy in place.

    Args:
        loaded: The policy; what of it requires a gradient is trained.
        config: Its settings.
        context: Tasks, environment, reward, run folder, log.
        checkpoint: Where to go on from, None to begin.

    Raises:
        TrainingError: when all episodes break off, a reward or loss is not finite, or a checkpoint cannot be written.
    """
    return PPO(loaded, config, context).run(checkpoint)


class PPO:
    """The loop and its state.

    Attributes:
        iteration: Iterations done.
        losses: Policy plus value loss of each iteration, the mean over its optimiser steps.
    """

    def __init__(self, loaded: LoadedModel, config: RLTrainingConfig, context: RLContext) -> None:
        self._loaded, self._config, self._context = loaded, config, context
        self._model = loaded.model.eval()
        self._form = BatchForm(loaded.model, loaded.tokenizer.pad_token_id or 0)
        width = base_model(loaded.model).get_output_embeddings().in_features
        self.value_head = ValueHead(width, config.detach_value_trunk).to(loaded.model.device)
        self._reference = Reference(loaded.model)
        self._trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
        groups = [
            {"params": self._trained, "scale": 1.0},
            {"params": list(self.value_head.parameters()), "scale": _VALUE_STEP / width / config.rate},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=config.rate, weight_decay=0.0, betas=(0.9, 0.99))
        self._kl = AdaptiveKL(config.kl_coef, config.target_kl)
        self._spread = 0.0
        self.iteration = self.optimizer_steps = self.tokens_seen = self.tokens_trained = 0
        self.losses: list[float] = []

    def run(self, checkpoint: Path | None) -> RLOutcome:
        """All iterations, or those that are left after `checkpoint`."""
        config, context = self._config, self._context
        remove_leftovers(context.folder)
        if checkpoint is not None:
            read_states(checkpoint, {"ppo": self})
        context.log.drop_after(self.iteration)
        with self._form.attention():
            while self.iteration < config.iterations and not context.stop():
                figures = self.step()
                context.log.step(self.iteration, config.iterations, figures)
                if self.iteration % config.save_steps == 0 or self.iteration == config.iterations or context.stop():
                    self._save()
        return RLOutcome(
            losses=self.losses, steps=self.optimizer_steps, tokens_seen=self.tokens_seen,
            tokens_trained=self.tokens_trained, interrupted=self.iteration < config.iterations,
            figures={"iterations": self.iteration, "kl_coef": self._kl.coefficient},
        )  # fmt: skip

    def step(self) -> dict[str, float | int | None]:
        """One iteration; its figures."""
        begin = time.perf_counter()
        number = self.iteration + 1
        played = self._play(number)
        lessons = self._prepare(played.rollouts)
        learned = self._learn(lessons, random.Random(f"minibatches {self._config.seed} {number}"))
        kl = [float((lesson.logps - lesson.reference).sum()) for lesson in lessons]
        figures = self._figures(played, lessons, kl)
        if self._config.kl_control == "adaptive":
            self._kl.update(fmean(kl), len(lessons))
        self.iteration = number
        self.losses.append(learned["loss"])
        self._context.log.episodes(number, [rollout.trajectory for rollout in played.rollouts])
        return {**figures, **learned, "seconds": time.perf_counter() - begin}

    def _play(self, number: int) -> Played:
        config, context = self._config, self._context
        return play(
            self._loaded, episodes_of(context.tasks, config.episodes_per_iteration, number, config.seed),
            context.make_environment, max_steps=config.max_steps, max_new_tokens=config.max_new_tokens,
            max_length=config.max_seq_length, temperature=config.temperature, seed=f"{config.seed} {number}",
            batch_size=config.eval_batch_size, progress=context.progress,
        )  # fmt: skip

    def _prepare(self, rollouts: Sequence[Rollout]) -> list[Lesson]:
        """What is written down before anything is learned, and what follows from it."""
        config = self._config
        with torch.no_grad():
            played = self._outputs(rollouts, entropy=True)
            with self._reference.in_place():
                reference = self._outputs(rollouts)
        by_turn = self._context.reward.by_turn([rollout.trajectory for rollout in rollouts])
        lessons = []
        for rollout, now, before, rewards in zip(rollouts, played, reference, by_turn, strict=True):
            penalty = self._kl.coefficient * kl_estimate(now.logps, before.logps, config.kl_estimator)
            if rollout.truncated:
                rewards = [*rewards[:-1], rewards[-1] - config.unfinished_penalty]
            lessons.append(lesson(rollout, now, before.logps, rewards, penalty, config))
        if config.whiten_advantages:
            self._whiten(lessons)
        return lessons

    def _whiten(self, lessons: Sequence[Lesson]) -> None:
        """By tokens: a turn's advantage counts as often as it is used."""
        advantages = torch.cat([one.advantages for one in lessons])
        counts = torch.cat([torch.bincount(one.steps).float() for one in lessons])
        self._spread = max(deviation(advantages, counts), _FADING * self._spread)
        white = whiten(advantages, counts, self._spread)
        for one, part in zip(lessons, torch.split(white, [len(one.advantages) for one in lessons]), strict=True):
            one.advantages = part

    def _outputs(self, rollouts: Sequence[Rollout], entropy: bool = False) -> list[PolicyOutputs]:
        """Of each episode, on the CPU, without gradient."""
        found: dict[int, PolicyOutputs] = {}
        for numbers in _batches([rollout.ids for rollout in rollouts]):
            outputs = self._forward([rollouts[at] for at in numbers], entropy)
            sizes = [sum(turn.stop - turn.start for turn in rollouts[at].turns) for at in numbers]
            parts = [torch.split(part.cpu(), sizes) for part in outputs if part is not None]
            found |= {at: PolicyOutputs(*part) for at, part in zip(numbers, zip(*parts, strict=True), strict=True)}
        return [found[at] for at in range(len(rollouts))]

    def _forward(self, rollouts: Sequence[Rollout], entropy: bool = False) -> PolicyOutputs:
        batch = on_device(self._form([rollout.row() for rollout in rollouts]), self._model.device)
        return policy_outputs(self._model, batch, self.value_head, entropy, self._config.temperature)

    def _learn(self, lessons: Sequence[Lesson], rng: random.Random) -> dict[str, Any]:
        """Several epochs over the episodes in minibatches; the figures of all optimiser steps, averaged."""
        config = self._config
        rate = config.rate * min(1.0, (self.iteration + 1) / (config.warmup_iterations + 1))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        taken: list[dict[str, float]] = []
        stopped = False
        for _ in range(config.num_epochs):
            order = rng.sample(range(len(lessons)), len(lessons))
            for start in range(0, len(order), config.minibatch_episodes):
                figures = self._optimise([lessons[at] for at in order[start : start + config.minibatch_episodes]])
                stopped = config.max_kl is not None and figures["moved"] > config.max_kl
                if stopped:
                    break
                taken.append(figures)
            if stopped:
                break
        if not taken:
            raise TrainingError(
                f"iteration {self.iteration + 1}: rounding alone moves the policy more than max_kl ({config.max_kl:g}) "
                "from itself; raise it"
            )
        means = {name: fmean(figures[name] for figures in taken) for name in taken[0]}
        return {
            "loss": means["policy_loss"] + config.value_coef * means["value_loss"], **means,
            "learning_rate": rate, "optimizer_steps": len(taken), "stopped_early": int(stopped),
        }  # fmt: skip

    def _optimise(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        """An optimiser step on the mean over a minibatch's tokens (values: its steps); it is not taken beyond `max_kl`.

        Token means are exact whatever the minibatch is split into, since every part divides by the whole's counts.
        """
        config = self._config
        tokens, steps = sum(len(one.logps) for one in lessons), sum(len(one.rewards) for one in lessons)
        sums = dict.fromkeys(("policy_loss", "value_loss", "clip_share", "approx_kl", "moved"), 0.0)
        self._optimizer.zero_grad()
        for numbers in _batches([one.rollout.ids for one in lessons]):
            part = [lessons[at] for at in numbers]
            outputs = self._forward([one.rollout for one in part], entropy=config.entropy_coef > 0)
            loss, figures = _loss(outputs, part, tokens, steps, config)
            if not bool(torch.isfinite(loss)):
                names = ", ".join(one.rollout.name for one in part[:3])
                raise TrainingError(f"iteration {self.iteration + 1}: the loss is not a number; episodes: {names} ...")
            loss.backward()  # type: ignore[no-untyped-call]
            for name, value in figures.items():
                sums[name] += value
        sums["moved"] /= len(lessons)
        if config.max_kl is not None and sums["moved"] > config.max_kl:
            return sums
        # Apart, since the head's is as large as the states it reads: in one norm it would decide the policy's step.
        norm, of_head = (
            torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
            for weights in (self._trained, list(self.value_head.parameters()))
        )
        if not bool(torch.isfinite(norm + of_head)):
            raise TrainingError(f"iteration {self.iteration + 1}: the gradient is not a number; lower learning_rate")
        self._optimizer.step()
        self.optimizer_steps += 1
        self.tokens_seen += sum(len(one.rollout.ids) for one in lessons)
        self.tokens_trained += tokens
        return {**sums, "grad_norm": float(norm)}

    def _figures(self, played: Played, lessons: Sequence[Lesson], kl: Sequence[float]) -> dict[str, float | int | None]:
        tokens = sum(len(one.logps) for one in lessons)
        told = torch.cat([one.values for one in lessons])
        return {
            "reward": fmean(one.score for one in lessons),
            "success": fmean(one.rollout.trajectory.success for one in lessons),
            "episodes": len(lessons),
            "broken": played.broken,
            "too_long": played.too_long,
            "cut_off": sum(one.rollout.truncated for one in lessons),
            "entropy": sum(one.entropy for one in lessons) / tokens,
            "steps_per_episode": fmean(len(one.rollout.turns) for one in lessons),
            "kl_per_episode": fmean(kl),
            "kl_per_token": sum(kl) / tokens,
            "kl_coef": self._kl.coefficient,
            "explained_variance": explained_variance(torch.cat([one.returns for one in lessons]), told),
            "tokens_per_second": played.tokens / max(played.seconds, 1e-9),
        }

    def _save(self) -> None:
        require_finite(self._model, self.iteration)
        config, folder = self._config, self._context.folder / CHECKPOINTS
        with drafted(folder, self.iteration, config.save_total_limit) as draft:
            draft.mkdir(parents=True)
            write_states(draft, {"ppo": self})

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint keeps: weights, their copy, the value head, the optimiser, and the counts."""
        tensors = {f"policy.{at}": weight.data for at, weight in enumerate(self._trained)}
        tensors |= {f"reference.{name}": value for name, value in self._reference.state_dict().items()}
        tensors |= {f"value.{name}": value for name, value in self.value_head.state_dict().items()}
        optimizer = self._optimizer.state_dict()
        for at, state in optimizer["state"].items():
            tensors |= {f"optimizer.{at}.{name}": torch.as_tensor(value) for name, value in state.items()}
        numbers = {"losses": self.losses, "kl_coef": self._kl.coefficient, "spread": self._spread}
        return {**tensors, "counts": self._counts(), **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        with torch.no_grad():
            for at, weight in enumerate(self._trained):
                weight.copy_(state[f"policy.{at}"])
        self._reference.load_state_dict(_under("reference", state))
        self.value_head.load_state_dict(_under("value", state))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer", state).items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self.iteration, self.optimizer_steps, self.tokens_seen, self.tokens_trained = state["counts"]
        self.losses, self._kl.coefficient, self._spread = list(state["losses"]), state["kl_coef"], state["spread"]

    def _counts(self) -> list[int]:
        return [self.iteration, self.optimizer_steps, self.tokens_seen, self.tokens_trained]


def _loss(
    outputs: PolicyOutputs, lessons: Sequence[Lesson], tokens: int, steps: int, config: RLTrainingConfig
) -> tuple[Tensor, dict[str, float]]:
    """This part's share of the minibatch's loss, and of its figures; `moved` is summed over episodes."""
    device = outputs.logps.device
    old = torch.cat([one.logps for one in lessons]).to(device)
    advantages = torch.cat([one.advantages[one.steps] for one in lessons]).to(device)
    each, clipped = clipped_policy_loss(outputs.logps, old, advantages, config.clip_range)
    assert outputs.values is not None, "values come with a value head"
    first = torch.cat([one.steps.diff(prepend=torch.tensor([-1])) > 0 for one in lessons]).to(device)
    old_values, returns = (
        torch.cat([getattr(one, name) for one in lessons]).to(device) for name in ("values", "returns")
    )
    of_values = clipped_value_loss(outputs.values[first], old_values, returns, config.value_clip_range)
    policy_loss, value_loss = each.sum() / tokens, of_values.sum() / steps
    loss = policy_loss + config.value_coef * value_loss
    figures = {"policy_loss": float(policy_loss.detach()), "value_loss": float(value_loss.detach())}
    if outputs.entropy is not None:
        loss = loss - config.entropy_coef * outputs.entropy.sum() / tokens
    with torch.no_grad():
        moved = kl_estimate(old, outputs.logps.detach(), "k3").sum()
        figures |= {
            "clip_share": float(clipped.sum() / tokens), "approx_kl": float(moved / tokens), "moved": float(moved)
        }  # fmt: skip
    return loss, figures


def _batches(ids: Sequence[list[int]]) -> Iterator[list[int]]:
    """The numbers of episodes in batches of at most `_BATCH_TOKENS` tokens, and of one episode at least.

    They are sorted by their tokens, so that episodes of one task, which begin alike, are computed together.
    """
    batch: list[int] = []
    for at in sorted(range(len(ids)), key=lambda at: ids[at]):
        if batch and sum(len(ids[one]) for one in batch) + len(ids[at]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
