"""Your own environment and your own reward: train a model by reinforcement, and see what it has learned.

Run it with `.venv/bin/python examples/rl_own_environment.py`: PPO on the embedded model; a GPU helps. A
model folder or run folder as argument takes that model instead. The same from the command line, without the reward:
`sage-finetune rl --base-model runs/first --environment python:examples/rl_own_environment.py:Guess`.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import AgentTrajectory, StepResult
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer

GUESS = {
    "type": "function",
    "function": {
        "name": "guess",
        "description": "Guess the number.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


class Guess:
    """A number from 1 to 9 to be found; a guess is answered with higher or lower."""

    def reset(self, task: dict[str, Any]) -> None:
        """Nothing to see but the instruction."""
        self._secret = task["secret"]

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """One guess; anything else ends it."""
        if action != "guess":
            return StepResult("", done=True, success=False)
        number = action_input["number"]
        found = number == self._secret
        hint = "right" if found else "higher" if number < self._secret else "lower"
        return StepResult(hint, reward=float(found), done=found, success=found)


def tasks(split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """What `sage-finetune rl --environment python:...` plays."""
    draw = random.Random(f"{split} {seed}")
    return [
        {
            "task_id": f"{split}-{number}",
            "instruction": "Find my number, from 1 to 9. Call guess until it is right.",
            "secret": draw.randint(1, 9),
            "tools": [GUESS],
        }
        for number in range(n)
    ]


def reward(trajectory: AgentTrajectory) -> float:
    """Finding the number is worth 1, a guess costs a tenth, what is no call at all costs half."""
    invalid = sum(step.error is not None for step in trajectory.steps)
    return float(trajectory.success) - 0.1 * len(trajectory.steps) - 0.5 * invalid


def main(model: str = "smollm2-135m-instruct", **settings: Any) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rl-own-environment-"))
    defaults = {"iterations": 6, "episodes_per_iteration": 32, "max_steps": 4, "max_new_tokens": 24, "num_epochs": 2}
    config = RLTrainingConfig(base_model=model, output_dir=folder / "run", **{**defaults, **settings})
    trainer = AgentRLTrainer(config, tasks=tasks("train", 32, 0), environment=Guess, reward=reward)
    held_out = tasks("test", 16, 0)
    before = [reward(trajectory) for trajectory in trainer.play(held_out)]
    result = trainer.train()
    after = [reward(trajectory) for trajectory in trainer.play(held_out)]
    print(f"reward on {len(held_out)} held-out tasks: {sum(before) / 16:.2f} before, {sum(after) / 16:.2f} after")
    print(f"{result.steps} optimiser steps on {result.tokens_trained} tokens of its own: {result.output_dir}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
