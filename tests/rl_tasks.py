"""Tasks small enough for a tiny model to be trained on by reinforcement within a test.

bandit      one turn, three arms: which kind of character the reply begins with; a random model pulls them all
tool task   two turns: call the right one of two tools, then answer; `tool_policy` has learned to call either
"""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tests.tiny import tiny_model, tiny_tokenizer

from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.training.rl.context import RLContext
from sage.libs.finetune.agent.training.rl.rewards import Source, reward_of
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, StepResult, TrajectoryStep

ARMS = (1.0, 0.3, 0.0)
BANDIT = [{"task_id": "bandit", "instruction": "Say a letter.", "tools": []}]


def arm(reply: str) -> int:
    """The arm that a reply pulls: 0 for a letter from a to h first, 1 for another letter, 2 for anything else."""
    first = reply[:1].lower()
    return 0 if "a" <= first <= "h" else 1 if "i" <= first <= "z" else 2


def bandit_reward(trajectory: AgentTrajectory) -> float:
    """What the arm pays that its first reply pulled; for `max_steps=1`."""
    return ARMS[arm(trajectory.steps[0].reply or "")]


class OneTurn:
    """An environment that says nothing and ends at the first step."""

    def reset(self, task: dict[str, Any]) -> None:
        """Nothing to see."""

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """The end, without a verdict."""
        return StepResult("", done=True)


def _tool(name: str) -> dict[str, Any]:
    """A tool without arguments: each token more is one more that a small model can spoil."""
    schema = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


FIND, ADD = "find", "add"
TOOLS = [_tool(FIND), _tool(ADD)]
TOOL_TASKS = [{"task_id": f"tea-{n}", "instruction": f"The price of tea {n}?", "tools": TOOLS} for n in range(2)]


class Shop:
    """`find` finds the price, `add` finds nothing; an answer after `find` is worth 1, any other one 0."""

    def __init__(self) -> None:
        self._found = False

    def reset(self, task: dict[str, Any]) -> None:
        """Nothing was found yet."""
        self._found = False

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """One call, or the answer."""
        if action == FINISH:
            return StepResult("", float(self._found), done=True, success=self._found)
        self._found = self._found or action == FIND
        return StepResult("12" if action == FIND else "nothing")


def random_policy(seed: int = 0, kind: str = "llama") -> LoadedModel:
    """The tiny model with random weights, all of them trainable: an adapter could not move its tied head."""
    tokenizer = tiny_tokenizer()
    return _loaded(tiny_model(tokenizer, kind, seed).requires_grad_(True))


def tool_policy() -> LoadedModel:
    """A tiny model that calls either tool about as often, and answers after it."""
    return _loaded(copy.deepcopy(_imitator()))


def context(
    folder: Path, tasks: list[dict[str, Any]], environment: Any, reward: Source = None, log: Any = None
) -> RLContext:
    """What an algorithm is given; `log` defaults to one that keeps everything in lists."""
    return RLContext(tasks, environment, reward_of(reward), folder, log or Lines(), lambda: False, silent)


class Lines:
    """A log that keeps the figures of each step in `lines`, and the first episodes of each in `played`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.played: dict[int, list[AgentTrajectory]] = {}

    def step(self, number: int, total: int, figures: Any) -> None:
        """Keep them."""
        self.lines.append({"step": number, **figures})

    def drop_after(self, number: int) -> None:
        """Keep those up to it."""
        self.lines = [line for line in self.lines if line["step"] <= number]

    def episodes(self, number: int, trajectories: Any) -> None:
        """Keep them."""
        self.played[number] = list(trajectories)


def _loaded(model: Any) -> LoadedModel:
    return LoadedModel(model, tiny_tokenizer(), SimpleNamespace(source="tiny", tool_format="compact"), "tiny")


@lru_cache(maxsize=1)
def _imitator() -> Any:
    """Trained on one episode of each task with each tool."""
    tokenizer, model = tiny_tokenizer(), tiny_model(seed=1).requires_grad_(True)
    rows = [
        render({"messages": to_messages(_episode(task, tool)), "tools": TOOLS}, tokenizer).row()
        for task in TOOL_TASKS
        for tool in (FIND, ADD)
    ]
    form = BatchForm(model, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    with form.attention():
        batch = form(rows)
        for step in range(150):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 150)
            optimizer.zero_grad()
            supervised_nll(model, batch).mean().backward()
            optimizer.step()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)  # half the temperature: what it is sure of it does nearly always
    return model.eval()


def _episode(task: dict[str, Any], tool: str) -> AgentTrajectory:
    observation = "12" if tool == FIND else "nothing"
    steps = [TrajectoryStep("", tool, {}, observation), TrajectoryStep("", FINISH, {"answer": "12"})]
    return AgentTrajectory(task["task_id"], task["instruction"], steps, tools=TOOLS)
