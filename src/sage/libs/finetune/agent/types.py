"""The vocabulary: what flows between the stages. Standard library only.

A trajectory is what an agent did; a sample (`{"messages": [...], "tools": [...]}`, the OpenAI/TRL form, `arguments`
a dict) is what a model is trained on. An environment is anything with `reset` and `step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from sage.libs.finetune.agent.errors import DataError

FINISH = "finish"
"""The action that ends an episode; its input is `{"answer": ...}`."""

INVALID = "invalid"
"""The action of a step whose reply held a tool call that could not be read."""

RESPOND = "respond"
"""The action of saying something to the user; its input is `{"content": ...}`, the user's answer the observation."""


def call_id(number: int) -> str:
    """The id of the `number`-th call of a conversation: nine letters and digits, since Mistral's templates want that.

    Example:
        >>> call_id(1)
        'call00001'
    """
    return f"call{number:05d}"


class ToolCall(TypedDict):
    """One call in an assistant message, `arguments` as a dict."""

    id: str
    type: str
    function: dict[str, Any]


class Message(TypedDict, total=False):
    """One chat message.

    `weight` says how much its tokens count in the loss (assistant only, default 1); `reasoning_content` is what a
    reasoning model thought before `content`, kept apart as servers do.
    """

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str
    weight: float


ToolSpec = dict[str, Any]
"""One tool: `{"type": "function", "function": {"name", "description", "parameters"}}` (JSON schema)."""


class Sample(TypedDict, total=False):
    """One training row: a conversation and the tools it could call."""

    messages: list[Message]
    tools: list[ToolSpec]
    metadata: dict[str, Any]


class StepResult(NamedTuple):
    """What an environment gives back for one action.

    `success` is None while the environment has no verdict; `error` names the fault of a call that was refused.
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    success: bool | None = None
    error: str | None = None


@runtime_checkable
class Environment(Protocol):
    """Where an agent acts. `reset` returns the first observation ("" if the task says it all)."""

    def reset(self, task: Mapping[str, Any]) -> str | None:
        """Start the task afresh."""
        ...

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult | tuple[Any, ...]:
        """Do one action; also called with `finish` and `{"answer": ...}` at the end."""
        ...


@dataclass
class TrajectoryStep:
    """One thought, action and what came of it.

    Attributes:
        thought: The agent's reasoning before the action; may be empty.
        action: Tool name, or `finish` for the final answer.
        action_input: The tool's arguments, or `{"answer": ...}`.
        observation: What the environment answered.
        reward: Reward of this step.
        error: Why the call was refused, None when it was carried out.
        reply: The model's own words when a language model chose the action, None otherwise.
    """

    thought: str
    action: str
    action_input: dict[str, Any] = field(default_factory=dict)
    observation: str = ""
    reward: float = 0.0
    error: str | None = None
    reply: str | None = None


@dataclass
class AgentTrajectory:
    """One episode of an agent on one task.

    Attributes:
        task_id: Unique identifier of the task.
        instruction: What the agent was asked.
        steps: What it did, in order.
        success: Whether the task was fulfilled.
        total_reward: Sum of rewards (the environment's, or the agent's own).
        tools: The tools it was shown, as JSON schemas.
        system_prompt: The system message it worked under, if any.
        error: Why the episode broke off (`kind: message (side, step n)`; kind is the exception's class, `timeout` or
            `cancelled`), None when it ran to its end.
        metadata: Anything else about it (split, family, agent, seed ...).
    """

    task_id: str
    instruction: str
    steps: list[TrajectoryStep] = field(default_factory=list)
    success: bool = False
    total_reward: float = 0.0
    tools: list[ToolSpec] = field(default_factory=list)
    system_prompt: str | None = None
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str | None:
        """The final answer, None when the agent gave none."""
        if self.steps and self.steps[-1].action == FINISH:
            return str(self.steps[-1].action_input.get("answer", ""))
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "trajectory") -> AgentTrajectory:
        """Build one from a parsed JSON object.

        Args:
            record: The object; unknown fields are refused so that nothing is dropped quietly.
            where: File and line for the error message.

        Raises:
            DataError: naming `where`, the field, and what was expected.
        """
        values = _checked(cls, record, where, _TRAJECTORY_TYPES, required=("task_id", "instruction", "steps"))
        check_tools(values.get("tools", []), where)
        values["steps"] = [
            TrajectoryStep(
                **_checked(TrajectoryStep, step, f"{where}, steps[{index}]", _STEP_TYPES, required=("action",))
            )
            for index, step in enumerate(values["steps"])
        ]
        return cls(**values)


def check_tools(tools: Sequence[object], where: str) -> None:
    """Refuse tools that no template can show: each needs a name, and its parameters, if any, are a JSON schema object.

    Raises:
        DataError: naming `where`, the tool by position, the field, what was expected and found.
    """
    for index, tool in enumerate(tools):
        field = f"{where}: tools[{index}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise DataError(
                f"{field}: expected {{'type': 'function', 'function': {{'name', ...}}}}, found {tool!r:.80}"
            )
        name, parameters = function["name"], function.get("parameters")
        if not isinstance(name, str) or not name:
            raise DataError(f"{field}.function.name: expected the tool's name, found {name!r}")
        if parameters is None:
            continue
        if not isinstance(parameters, Mapping):
            found = type(parameters).__name__
            raise DataError(f"{field}.function.parameters: expected a JSON schema object, found {found}")
        properties = parameters.get("properties", {})
        if not isinstance(properties, Mapping):
            found = type(properties).__name__
            raise DataError(f"{field}.function.parameters.properties: expected an object, found {found}")


_NUMBER = (int, float)
_STEP_TYPES: dict[str, Any] = {
    "thought": str, "action": str, "action_input": dict, "observation": str, "reward": _NUMBER,
    "error": (str, type(None)), "reply": (str, type(None)),
}  # fmt: skip
_TRAJECTORY_TYPES: dict[str, Any] = {
    "task_id": str, "instruction": str, "steps": list, "success": bool, "total_reward": _NUMBER, "tools": list,
    "system_prompt": (str, type(None)), "error": (str, type(None)), "metadata": dict,
}  # fmt: skip


def _checked(
    cls: type, record: object, where: str, types: Mapping[str, Any], required: Sequence[str]
) -> dict[str, Any]:
    """The record as keyword arguments of `cls`, or a DataError that names the field."""
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    for name in required:
        if name not in record:
            raise DataError(f"{where}: field '{name}' is missing; {cls.__name__} needs {', '.join(required)}")
    for name, value in record.items():
        if name not in types:
            raise DataError(f"{where}: unknown field '{name}'; known are {', '.join(types)}")
        wanted = types[name]
        if not isinstance(value, wanted) or (wanted is _NUMBER and isinstance(value, bool)):
            names = [t.__name__ for t in (wanted if isinstance(wanted, tuple) else (wanted,))]
            expected = " or ".join(names).replace("NoneType", "null")
            raise DataError(f"{where}: field '{name}': expected {expected}, found {type(value).__name__}")
    if cls is TrajectoryStep:
        return {"thought": "", **record}
    return dict(record)


@dataclass
class TaskSample:
    """A training sample together with the task it belongs to.

    Attributes:
        task_type: Name of the task.
        data: The sample itself: a chat row, or any other form of row.
        source: Where it comes from, None when nobody said.

    Example:
        >>> TaskSample("planning", {"messages": [{"role": "user", "content": "Plan it."}]}).source is None
        True
    """

    task_type: str
    data: dict[str, Any]
    source: str | None = None


@dataclass
class Interval:
    """A confidence interval of a share (95% unless said otherwise)."""

    low: float
    high: float


@dataclass
class TrainingResult:
    """What a training run did.

    Attributes:
        final_loss: Mean training loss over the last tenth of the steps (nats per trained token).
        losses: Loss of each optimiser step.
        steps: Optimiser steps done in all, resumed ones included.
        tokens_seen: Tokens of the rows trained on, resumed steps included (padding not counted).
        tokens_trained: Those of them that carried loss.
        seconds: Wall-clock time of this call.
        output_dir: The run folder.
        eval_loss: Loss on `eval_data` after training, None when there was none.
        interrupted: True when the run was stopped early; the folder resumes.
        best_eval_step: Optimiser step of the lowest loss that an evaluation during training found, None without one.
        best_eval_loss: That loss.
        tokens_computed: Tokens that went through the model: a prefix that rows of a batch share once, padding as well.
        batches: How batches were computed, and why not faster where that is so.
        rows_selected: Rows of the coreset that was trained on, None without one.
        rows_replayed: Rows that steps took from the replay buffer, resumed steps included; None without a buffer.
        tokens_replayed: Their tokens, which `tokens_seen` counts as well.
    """

    final_loss: float
    losses: list[float]
    steps: int
    tokens_seen: int
    tokens_trained: int
    seconds: float
    output_dir: Path
    eval_loss: float | None = None
    interrupted: bool = False
    best_eval_step: int | None = None
    best_eval_loss: float | None = None
    tokens_computed: int = 0
    batches: str = ""
    rows_selected: int | None = None
    rows_replayed: int | None = None
    tokens_replayed: int | None = None


@dataclass
class EvalResult:
    """How well a model replies on held-out rows.

    Each assistant turn of each row is asked for once, given the true history before it.

    Attributes:
        accuracy: Share of turns answered right: the same calls (any order), or the same final answer.
        accuracy_interval: Its 95% Wilson interval.
        loss: Mean negative log-likelihood of the true turns (nats per token).
        n: Turns scored.
        rows: Rows they came from.
        calls_valid: Of the turns that attempted a call, the share that parsed, named a shown tool and fitted its
            schema; None when no call was attempted.
        calls_attempted: Turns that attempted a call.
        replies: One record per turn: row, turn, expected, reply, right, reason.
    """

    accuracy: float
    accuracy_interval: Interval
    loss: float
    n: int
    rows: int
    calls_valid: float | None = None
    calls_attempted: int = 0
    replies: list[dict[str, Any]] = field(default_factory=list)
