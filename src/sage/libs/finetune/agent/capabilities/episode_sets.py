"""Episodes as a capability: whole tasks in an environment, and how many of them the model brings to a good end.

A reply can be right and the episode still fail, so this is measured beside the single replies of the other test sets.
The environment judges. An episode that broke off, because the model or the environment raised, is an error and no 0; an
episode that nobody judged is skipped.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.capabilities.desk_items import desk_stream
from sage.libs.finetune.agent.capabilities.item_sources import BUILTIN, builtin_number
from sage.libs.finetune.agent.capabilities.repliers import EndpointReplier, FunctionReplier, Replier, replier_of
from sage.libs.finetune.agent.environments.desk import DeskEnvironment
from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.evaluation.episodes import score_episodes
from sage.libs.finetune.agent.evaluation.report import CapabilityScore
from sage.libs.finetune.agent.evaluation.statistics import wilson_interval
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.dialogue import Dialogue
from sage.libs.finetune.agent.trajectories.protocols import read_tasks
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, TrajectoryStep

EPISODES = "episodes"
"""What this capability is called in test sets and reports."""
_DECIDES = ("act", "run_step", "act_batch")
_TOKENS = 96  # of one step; what `ModelAgent` takes as well


def evaluate_episodes(
    model: Any,
    tasks: Any = BUILTIN,
    *,
    environment: object = DeskEnvironment,
    max_steps: int = 10,
    batch_size: int = 32,
    max_new_tokens: int = _TOKENS,
    concurrency: int = 16,
    confidence: float = 0.95,
    tokenizer: Any = None,
    dtype: str = "auto",
    tool_format: str = "auto",
    progress: Progress = silent,
) -> CapabilityScore:
    """Let a model work through tasks and count the successes.

    Args:
        model: An agent (an object with `act`, `run_step` or `act_batch`, the class of one, or a function
            `(task, history)`), or whatever `replier_of` takes: a trainer, a model or its name, a server, a function
            `messages -> reply`.
        tasks: A list of tasks, or `builtin` or `builtin:N`: tasks of the desk that no training row is made of.
        environment: As for `TrajectoryCollector`; the desk, unless given.
        max_steps: Steps after which an episode is cut off.
        batch_size: Episodes of a local model at once.
        max_new_tokens: Longest reply, a step each.
        concurrency: Episodes at once that a server works on.
        confidence: Coverage of the interval, 0 to 1.
        tokenizer: Of a transformers model; None for the one saved with it.
        dtype: Of a model that is loaded here.
        tool_format: Of a model that is loaded here.
        progress: Told how many episodes are over.

    Returns:
        The share of successes with its Wilson interval. `details` has `mean_steps`, `calls`, `valid_calls` and
        `wasted_calls` (shares of them, see `evaluation.episodes`), `ended` (how episodes ended: finish, max_steps ...),
        `by_kind` where tasks have one, and in each record the whole `trajectory`.

    Raises:
        ConfigError: for something that neither decides nor replies, or an unusable setting.
        DataError: for unusable tasks.
        TrajectoryError: when the first 20 episodes all break off at their first step for the same reason.

    Example:
        >>> from sage.libs.finetune.agent.environments.desk import DeskExpert
        >>> score = evaluate_episodes(DeskExpert(), "builtin:4")
        >>> score.score, score.num_samples, score.details["mean_steps"]
        (1.0, 4, 4.25)
    """
    known = episode_tasks(tasks)
    agent = agent_of(
        model, batch_size=batch_size, max_new_tokens=max_new_tokens, concurrency=concurrency, tokenizer=tokenizer,
        dtype=dtype, tool_format=tool_format,
    )  # fmt: skip
    config = CollectorConfig(
        max_steps=max_steps,
        require_success=False,
        batch_size=batch_size,
        concurrency=concurrency if inspect.iscoroutinefunction(getattr(agent, "act", None)) else 1,
    )
    over: list[str] = []

    def told(episode: AgentTrajectory) -> None:
        over.append(episode.task_id)
        progress(EPISODES, len(over), len(known))

    begin = time.perf_counter()
    progress(EPISODES, 0, len(known))
    episodes = TrajectoryCollector(agent, config, environment, on_episode=told).collect(known)
    return episodes_score(episodes, confidence, (time.perf_counter() - begin) / max(len(episodes), 1))


def episode_tasks(tasks: Any = BUILTIN, split: str = "test", seed: int = 0) -> list[dict[str, Any]]:
    """The tasks that `tasks` stands for, checked.

    Args:
        tasks: As for `evaluate_episodes`.
        split: Of the built-in ones: test, dev or train.
        seed: Of the built-in ones.

    Raises:
        ConfigError: for a text that names no built-in tasks.
        DataError: for unusable tasks.

    Example:
        >>> [task["task_id"] for task in episode_tasks("builtin:2")]
        ['test_iid-0-0000', 'test_iid-0-0001']
    """
    if isinstance(tasks, str):
        if tasks.partition(":")[0] != BUILTIN:
            raise ConfigError(f"episodes: '{tasks}' names no tasks; give a list of tasks, '{BUILTIN}' or '{BUILTIN}:N'")
        return list(desk_stream(split, builtin_number(tasks), seed))
    if isinstance(tasks, Mapping) or not isinstance(tasks, Iterable):
        raise ConfigError(f"episodes: expected a list of tasks or '{BUILTIN}:N', found {type(tasks).__name__}")
    return read_tasks(tasks)


def decides(model: Any) -> bool:
    """Whether a model is an agent already: it has one of an agent's methods, or is a function `(task, history)`.

    Example:
        >>> decides(lambda task, history: None), decides(lambda messages: "")
        (True, False)
    """
    if any(callable(getattr(model, name, None)) for name in _DECIDES):
        return True
    return inspect.isroutine(model) and list(inspect.signature(model).parameters)[:2] == ["task", "history"]


def agent_of(model: Any, **settings: Any) -> object:
    """The agent that a model is: itself, if it decides, else one that puts its replies into steps.

    Args:
        model: As for `evaluate_episodes`, or what `replier_of` gave.
        **settings: As for `replier_of`.
    """
    if decides(model):
        return model
    replier: Any = model if callable(getattr(model, "replies", None)) else replier_of(model, **settings)
    if isinstance(replier, EndpointReplier):
        from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent

        server = replier.endpoint
        return EndpointAgent(
            server.model, base_url=server.base_url, temperature=0.0, max_tokens=settings.get("max_new_tokens", _TOKENS)
        )
    if isinstance(replier, FunctionReplier):
        return ReplyingAgent(replier)
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent

    names = ("batch_size", "max_new_tokens")
    return ModelAgent(replier.loaded, **{name: settings[name] for name in names if name in settings})


class ReplyingAgent:
    """Steps from the replies of a function: it is shown the conversation so far, and its reply is the next step.

    Args:
        replier: Gives the replies.
    """

    def __init__(self, replier: Replier) -> None:
        self._replier = replier
        self._dialogue = Dialogue()

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> dict[str, Any]:
        """The next step.

        Raises:
            ModelError: with what the function raised.
        """
        prompt = self._dialogue.prompt(task, history)
        [reply] = self._replier.replies([{"id": task["task_id"], "messages": prompt.messages, "tools": prompt.tools}])
        if reply.error is not None:
            raise ModelError(reply.error)
        return self._dialogue.read(reply.text, task, cut=reply.cut)


def episodes_score(
    episodes: Sequence[AgentTrajectory], confidence: float = 0.95, seconds: float = 0.0
) -> CapabilityScore:
    """Sum up finished episodes.

    Args:
        episodes: What was collected.
        confidence: Coverage of the interval, 0 to 1.
        seconds: What an episode took on average.

    Example:
        >>> episodes_score([AgentTrajectory("a", "Do it.", success=True)]).score
        1.0
    """
    judged = [episode for episode in episodes if _value(episode) is not None]
    errors = [episode for episode in episodes if episode.error is not None]
    successes = sum(episode.success for episode in judged)
    interval = wilson_interval(successes, len(judged), confidence)
    counted = score_episodes(judged)
    details: dict[str, Any] = {
        "interval": {"low": interval.low, "high": interval.high, "confidence": confidence} if judged else None,
        "errors": len(errors),
        "skipped": len(episodes) - len(judged) - len(errors),
        "label": None,
        "mean_steps": counted.mean_steps if judged else None,
        "calls": counted.calls,
        "valid_calls": counted.calls_valid / counted.calls if counted.calls else None,
        "wasted_calls": counted.wasted_share if counted.calls else None,
        "wasted": counted.wasted,
        "ended": _counts([str(episode.metadata.get("ended", "")) for episode in episodes]),
        "by_kind": _by_kind(judged),
        "replies": [_record(episode, seconds) for episode in episodes],
    }
    score = successes / len(judged) if judged else math.nan
    return CapabilityScore(EPISODES, score, len(judged), details)


def _value(episode: AgentTrajectory) -> float | None:
    if episode.error is not None or episode.metadata.get("judged") is False:
        return None
    return float(episode.success)


def _record(episode: AgentTrajectory, seconds: float) -> dict[str, Any]:
    """What a report says of an episode; the reply is its last one."""
    value = _value(episode)
    prompt = [{"role": "system", "content": episode.system_prompt}] if episode.system_prompt else []
    last = episode.steps[-1] if episode.steps else TrajectoryStep("", FINISH, {"answer": ""})
    told = last.reply or episode.answer or ""
    reason = "not judged" if value is None else "success" if value else f"failed ({episode.metadata.get('ended')})"
    return {
        "id": episode.task_id,
        "prompt": [*prompt, {"role": "user", "content": episode.instruction}],
        "reply": told,
        "extracted": episode.answer,
        "value": value,
        "reason": "" if episode.error else reason,
        "details": {
            "steps": len(episode.steps),
            "wasted": score_episodes([episode]).wasted,
            "total_reward": episode.total_reward,
        },
        "error": episode.error,
        "seconds": round(seconds, 6),
        "cut": False,
        "trajectory": episode.to_dict(),
    }


def _by_kind(episodes: Sequence[AgentTrajectory]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for episode in episodes:
        if "kind" in episode.metadata:
            groups.setdefault(str(episode.metadata["kind"]), []).append(float(episode.success))
    return {kind: {"success": math.fsum(values) / len(values), "n": len(values)} for kind, values in groups.items()}


def _counts(words: Sequence[str]) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words)}
