"""Episodes of the policy as token sequences, exactly as it read and wrote them.

An episode is one sequence: the prompt, then in turns what the policy wrote and what it was answered. Its own tokens are
kept as it drew them and never made again from its words, since another way to write the same words has another
probability: the gradient would be that of something nobody did. The next prompt is therefore the sequence so far, the
stop token if the policy was cut off before its own, and the tokens that the template puts after an assistant's turn.
For replies in the form of our own rows this is, token for token, what training on the trajectory would render.

What the policy does not write (prompt, observations, a stop token put in its place) has no label: it is in no loss, no
KL and no advantage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.errors import ModelError, TrainingError
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.sampling import Sampler, greedy
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.tokenization.render import IGNORED, render_after, render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.trajectories.dialogue import Dialogue, sample_of
from sage.libs.finetune.agent.trajectories.episode import Episode
from sage.libs.finetune.agent.trajectories.execution.local import in_turns
from sage.libs.finetune.agent.trajectories.execution.stop import Stop
from sage.libs.finetune.agent.trajectories.protocols import Cast
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

logger = logging.getLogger(__name__)

_CUT_OFF = ("max_steps", "gave_up", "errors")
"""How an episode ends (`metadata["ended"]`) that neither the policy nor the environment brought to its end."""


@dataclass(frozen=True)
class Turn:
    """What the policy wrote at once: tokens `start` to `stop` of its episode, its stop token included if it wrote one.

    Attributes:
        start: Its first token.
        stop: The token after its last.
    """

    start: int
    stop: int


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        ids: All its tokens: prompt, turns, observations.
        prompt_length: Tokens before the first turn.
        turns: What the policy wrote, in order.
        trajectory: The same episode in words.
        truncated: Whether it was cut off (too many turns or tokens) and not ended by the policy or the environment.
    """

    ids: list[int]
    prompt_length: int
    turns: list[Turn]
    trajectory: AgentTrajectory
    truncated: bool = False

    @property
    def labels(self) -> list[int]:
        """The policy's own tokens; -100 for prompt and observations."""
        labels = [IGNORED] * len(self.ids)
        for turn in self.turns:
            labels[turn.start : turn.stop] = self.ids[turn.start : turn.stop]
        return labels

    @property
    def name(self) -> str:
        """The task, and which episode of it, for messages."""
        return f"{self.trajectory.task_id}, sample {_sample(self.trajectory)}"

    def row(self) -> dict[str, Any]:
        """The episode as a token row, for `models.prefix.pack`."""
        return {"input_ids": self.ids, "labels": self.labels}


@dataclass
class Played:
    """What came of playing.

    Attributes:
        rollouts: The episodes to learn from, in the order of the tasks and then of their samples.
        broken: Episodes that broke off with an error of the environment's; nothing is learned from them.
        too_long: Episodes whose prompt left no room for a turn.
        seconds: It took so long.
        tokens: Tokens the policy wrote.
    """

    rollouts: list[Rollout]
    broken: int
    too_long: int
    seconds: float
    tokens: int


@dataclass
class _Sequence:
    """An episode that goes on: its tokens so far, where the prompt ends, and the turns in it."""

    ids: list[int]
    prompt_length: int
    turns: list[tuple[int, int]]


class PolicyAgent:
    """The policy as an agent of `TrajectoryCollector`, which remembers what it read and wrote.

    A turn that would not fit into `max_length` is not begun: the episode ends, as given up.

    Args:
        loaded: Model and tokenizer.
        max_new_tokens: Longest turn.
        max_length: Longest episode, in tokens.
        temperature: At which turns are drawn; 0 takes the likeliest tokens.
        seed: What is drawn depends on it, the task's id, its sample and the step, and on nothing else.
        batch_size: Episodes generated together.

    Attributes:
        fault: Why the model gave no reply (it computes NaN); None while it does. To whoever plays it looks like an
            agent that fails in one episode, and it is no matter of one episode.
    """

    fault: ModelError | None = None

    def __init__(
        self, loaded: LoadedModel, *, max_new_tokens: int, max_length: int, temperature: float = 1.0,
        seed: str = "0", batch_size: int = 64,
    ) -> None:  # fmt: skip
        self._dialogue = Dialogue()
        self._tokenizer = loaded.tokenizer
        self._max_new_tokens, self._max_length = max_new_tokens, max_length
        self._temperature, self._seed = temperature, seed
        self._stop_ids = frozenset(stop_ids(loaded.tokenizer, loaded.model.generation_config))
        self._sequences: dict[tuple[str, int], _Sequence] = {}
        self.generator = Generator.of(loaded, batch_size)

    def act_batch(
        self, tasks: Sequence[Mapping[str, Any]], histories: Sequence[Sequence[TrajectoryStep]]
    ) -> list[dict[str, Any] | None]:
        """One decision a task, given what happened in it so far; None where there is no room for another turn."""
        keys = [(task["task_id"], sample_of(task)) for task in tasks]
        prompts = [self._prompt(*asked) for asked in zip(keys, tasks, histories, strict=True)]
        fits = [at for at, ids in enumerate(prompts) if len(ids) + self._max_new_tokens <= self._max_length]
        seeds = [f"{self._seed} {keys[at]} {len(histories[at])}" for at in fits]
        try:
            replies = self.generator.generate(
                [prompts[at] for at in fits], max_new_tokens=self._max_new_tokens, keys=[keys[at] for at in fits],
                choose=Sampler(self._temperature, seeds) if self._temperature else greedy,
            )  # fmt: skip
        except ModelError as error:
            self.fault = error
            raise
        # Nothing is remembered before all is read: when this fails, each episode is asked for again by itself.
        read = [self._decision(reply, tasks[at]) for at, reply in zip(fits, replies, strict=True)]
        decisions: list[dict[str, Any] | None] = [None] * len(tasks)
        for at, reply, decision in zip(fits, replies, read, strict=True):
            before = self._sequences.get(keys[at]) if histories[at] else None
            prompt = prompts[at]
            self._sequences[keys[at]] = _Sequence(
                [*prompt, *reply],
                before.prompt_length if before else len(prompt),
                [*(before.turns if before else ()), (len(prompt), len(prompt) + len(reply))],
            )
            decisions[at] = decision
        return decisions

    def rollout(self, trajectory: AgentTrajectory) -> Rollout | None:
        """The sequence of a finished episode; None for one in which the policy never came to write."""
        sequence = self._sequences.get((trajectory.task_id, _sample(trajectory)))
        if sequence is None or not trajectory.steps:
            return None
        turns = [Turn(*span) for span, _ in zip(sequence.turns, trajectory.steps, strict=True)]
        cut_off = trajectory.metadata.get("ended") in _CUT_OFF
        return Rollout(sequence.ids, sequence.prompt_length, turns, trajectory, cut_off)

    def _prompt(self, key: tuple[str, int], task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> list[int]:
        prompt = self._dialogue.prompt(task, history)
        if not history:
            return render_prompt(prompt.messages, prompt.tools, self._tokenizer)
        sequence = self._sequences[key]
        stop, after = render_after(prompt.messages, prompt.tools, self._tokenizer)
        ended = sequence.ids[-1] in self._stop_ids
        return [*sequence.ids, *([] if ended else [stop]), *after]

    def _decision(self, reply: list[int], task: Mapping[str, Any]) -> dict[str, Any]:
        finished = bool(reply) and reply[-1] in self._stop_ids
        text = str(self._tokenizer.decode(reply[:-1] if finished else reply, clean_up_tokenization_spaces=False))
        return self._dialogue.read(text, task, cut=not finished)


def play(
    loaded: LoadedModel,
    tasks: Sequence[Mapping[str, Any]],
    environment: Callable[[], object],
    *,
    max_steps: int = 10,
    max_new_tokens: int = 96,
    max_length: int = 2048,
    temperature: float = 1.0,
    seed: str = "0",
    batch_size: int = 64,
    progress: Progress = silent,
) -> Played:
    """Play an episode of each task with the policy as it is.

    Args:
        loaded: The policy.
        tasks: Several episodes of a task are told apart by `metadata["sample"]`.
        environment: Makes an environment for one episode.
        max_steps: Turns after which an episode is cut off.
        max_new_tokens: Longest turn.
        max_length: Longest episode, in tokens.
        temperature: At which turns are drawn; 0 takes the likeliest tokens.
        seed: The same seed, weights and tasks give the same episodes, whatever the batch size or the order of tasks.
        batch_size: Episodes generated together.
        progress: Told of finished episodes under the label "play".

    Raises:
        TrainingError: when the policy computes NaN, or no episode came to its end, with the error of the first.
    """
    begin = time.perf_counter()
    agent = PolicyAgent(
        loaded, max_new_tokens=max_new_tokens, max_length=max_length, temperature=temperature, seed=seed,
        batch_size=batch_size,
    )  # fmt: skip
    episodes = (Episode(dict(task), max_steps) for task in tasks)
    found: dict[tuple[str, int], AgentTrajectory] = {}
    for trajectory in in_turns(episodes, Cast.of(agent, environment), Stop(), width=batch_size):
        if agent.fault is not None:
            raise TrainingError(
                "the policy computes NaN: if it has learned already, lower learning_rate; if not, its weights are "
                "broken or too large for their number type: load another, or set dtype to float32"
            ) from agent.fault
        found[trajectory.task_id, _sample(trajectory)] = trajectory
        progress("play", len(found), len(tasks))
    trajectories = [found[task["task_id"], sample_of(task)] for task in tasks]
    ended = [trajectory for trajectory in trajectories if trajectory.error is None]
    if not ended:
        first = trajectories[0]
        raise TrainingError(
            f"all {len(trajectories)} episodes broke off; the first, of task '{first.task_id}': {first.error}"
        )
    rollouts = [rollout for trajectory in ended if (rollout := agent.rollout(trajectory)) is not None]
    if not rollouts:
        raise TrainingError(
            f"no episode had room for a single turn: the shortest prompt and {max_new_tokens} new tokens exceed "
            f"max_seq_length ({max_length}); raise it"
        )
    return Played(
        rollouts,
        broken=len(trajectories) - len(ended),
        too_long=len(ended) - len(rollouts),
        seconds=time.perf_counter() - begin,
        tokens=sum(turn.stop - turn.start for rollout in rollouts for turn in rollout.turns),
    )


def _sample(trajectory: AgentTrajectory) -> int:
    return sample_of({"metadata": trajectory.metadata})
