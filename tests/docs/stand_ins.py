"""What the pages take for granted, small and lawful: files with rows, models, an agent, an environment.

A folder called like a model's id stands in for the model, since folders come first when a name is looked up.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.contract.source_files import ROOT
from tests.tiny import save_tiny

from sage.libs.finetune.agent import CollectorConfig, StepResult, TrajectoryCollector, save_trajectories
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.jsonl import write_json, write_jsonl, write_text
from sage.libs.finetune.agent.pipeline import desk_samples

MODELS = ("smollm2-135m-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "runs/laptop", "runs/first")
ROW_FILES = (
    "rows", "new", "held_out", "tools", "tools_test", "plans", "plans_test", "timing", "chat", "general", "easy",
    "hard", "notes_train", "notes_test",
)  # fmt: skip

SHORTER = {
    "README.md": [('learning_rate="auto")', 'learning_rate="auto", max_steps=1, max_new_tokens=4)')],
    "docs/quickstart.md": [('output_dir="runs/python", ', 'output_dir="runs/python", max_steps=1, max_new_tokens=4, ')],
    "docs/continual.md": [("self_rows(loaded, 64)", "self_rows(loaded, 2, max_new_tokens=4)")],
    "docs/rl.md": [
        (
            'output_dir="runs/short")',
            'output_dir="runs/short", iterations=1, episodes_per_iteration=2, minibatch_episodes=2, max_steps=1,'
            " num_tasks=2, max_new_tokens=4)",
        )
    ],
}
"""Per page, what is written otherwise when it is run, so that it takes a second: the same calls, fewer of them."""

TOOL = {
    "type": "function",
    "function": {
        "name": "double",
        "description": "Twice a number.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


class MyEnvironment:
    """One tool, which doubles numbers; the answer ends the episode."""

    def reset(self, task: dict[str, Any]) -> None:
        self.answer = task["answer"]

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        if action == "double":
            return StepResult(str(2 * action_input["number"]))
        right = action_input.get("answer") == self.answer
        return StepResult("", reward=float(right), done=True, success=right)


def my_agent(task: dict[str, Any], history: list[Any]) -> dict[str, Any]:
    """Doubles, then says what it got."""
    if not history:
        return {"thought": "I double it.", "action": "double", "action_input": {"number": task["number"]}}
    return {"thought": "", "action": "finish", "action_input": {"answer": int(history[-1].observation)}}


TASKS = [
    {"instruction": f"What is twice {number}?", "number": number, "answer": 2 * number, "tools": [TOOL]}
    for number in range(3)
]


def names() -> dict[str, Any]:
    """The names a page may use without making them."""
    return {
        "my_agent": my_agent,
        "MyEnvironment": MyEnvironment,
        "task_list": TASKS,
        "samples": [{"messages": row["messages"], "tools": row["tools"]} for row in desk_samples("dev")[:2]],
        "batches": [{"input_ids": [[start, start + 1]]} for start in range(3)],
        "train_step": lambda batch: None,
    }


def furnish(folder: Path) -> None:
    """Put the files and models into an empty folder that the pages speak of."""
    rows = desk_samples("dev")[:24]
    for number, name in enumerate(ROW_FILES):  # different rows, since a row that comes twice is a fault
        chosen = rows if name == "rows" else [_numbered(row, number) for row in rows[:8]]
        write_jsonl(folder / f"{name}.jsonl", chosen)
    write_json(folder / "traces.json", rows[:4])
    config = CollectorConfig(require_success=False, samples_per_task=3)
    samples = TrajectoryCollector(NoisyDeskExpert(), config, DeskEnvironment).collect(desk_tasks("train", 12))
    save_trajectories(folder / "samples.jsonl", samples)
    for name in MODELS:
        save_tiny(folder / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(folder / "configs" / "laptop_cpu.yaml", folder / "run.yaml")
    shutil.copytree(ROOT / "examples", folder / "examples")
    write_text(folder / "sage-data.yaml", "my_traces:\n  train: rows.jsonl\n  test: held_out.jsonl\n")


def _numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    first, *others = row["messages"]
    return {**row, "messages": [{**first, "content": f"{first['content']} (No. {number})"}, *others]}
