"""Every example of the API reference runs as it is written, around small lawful stand-ins.

The examples run in an empty folder, with the package's names and the ones an example takes for granted (`my_agent`,
`task_list` ...). A folder called like the model's hub id stands in for the hub.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.contract import examples

import sage.libs.finetune.agent as agent
from sage.libs.finetune.agent import AgentSFTConfig, AgentTrajectory, save_trajectories

HUB_ID = "Qwen/Qwen2.5-1.5B-Instruct"

TASKS = [
    {"task_id": "two", "instruction": "Double 2.", "number": 2, "answer": 4},
    {"task_id": "three", "instruction": "Double 3.", "number": 3, "answer": 6},
    {"task_id": "four", "instruction": "Four times 4.", "number": 4, "answer": 16},
]


def my_agent(task: dict[str, Any], history: list[Any]) -> dict[str, Any]:
    """Doubles numbers with a tool of its own; it does not know any better, so the last task fails."""
    if not history:
        double = 2 * task["number"]
        return {
            "thought": f"I double {task['number']}.",
            "action": "double",
            "action_input": {"number": task["number"]},
            "observation": f"double={double}",
        }
    answer = history[-1].observation.removeprefix("double=")
    right = answer == str(task["answer"])
    return {"thought": "", "action": "finish", "action_input": {"answer": answer}, "reward": float(right)}


def run(example: str, **given: Any) -> dict[str, Any]:
    """Run an example with what it takes for granted; returns the names it leaves behind."""
    names: dict[str, Any] = {"json": json, **given}
    for name in set(agent.__all__) - set(given):
        if name in example:
            names[name] = getattr(agent, name)
    exec(compile(example, "API reference", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def collected() -> list[AgentTrajectory]:
    collector = agent.TrajectoryCollector(my_agent, agent.CollectorConfig(require_success=False))
    return collector.collect(TASKS)


def test_config() -> None:
    config = run(examples.CONFIG)["config"]
    assert (config.num_epochs, config.use_coreset_selection, config.coreset_strategy) == (2, True, "hybrid")
    assert config.use_dora
    assert config.use_lora


def test_collector(capsys: pytest.CaptureFixture[str]) -> None:
    left = run(examples.COLLECTOR, my_agent=my_agent, task_list=TASKS)
    assert capsys.readouterr().out == "Collected 2 trajectories\n"
    [two, three] = left["trajectories"]
    assert (two.task_id, two.instruction, two.success, two.total_reward) == ("two", "Double 2.", True, 1.0)
    step = three.steps[0]
    assert (step.thought, step.action, step.action_input) == ("I double 3.", "double", {"number": 3})
    assert (step.observation, step.reward) == ("double=6", 0.0)


def test_collector_takes_one_task() -> None:
    trajectory = agent.TrajectoryCollector(agent=my_agent, config=None).collect_single(TASKS[2])
    assert (trajectory.task_id, trajectory.success) == ("four", False)


def test_filter(capsys: pytest.CaptureFixture[str], collected: list[AgentTrajectory]) -> None:
    left = run(examples.FILTER, all_trajectories=collected)
    assert capsys.readouterr().out == "Kept 2 / 3 trajectories\n"
    assert left["good_trajectories"] == collected[:2]


def test_converter(collected: list[AgentTrajectory]) -> None:
    left = run(examples.CONVERTER, trajectories=collected)
    rows = [json.loads(line) for line in Path("sft_data.jsonl").read_text().splitlines()]
    assert rows == left["sft_data"]
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert rows[0]["messages"][2]["content"] == "double=4"


def test_convenience_functions(collected: list[AgentTrajectory]) -> None:
    save_trajectories("trajectories.jsonl", collected)
    left = run(examples.CONVENIENCE, my_agent=my_agent, task_list=TASKS)
    assert [row["messages"][0]["content"] for row in left["sft_data"]] == ["Double 2.", "Double 3."]
    assert left["trajectories"] == collected


def test_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import save_tiny

    save_tiny(HUB_ID)
    quick = functools.partial(
        AgentSFTConfig, max_steps=2, batch_size=1, gradient_accumulation_steps=1, max_new_tokens=4, dtype="float32"
    )
    left = run(examples.TRAINER, AgentSFTConfig=quick)
    result, eval_result = left["result"], left["eval_result"]
    assert capsys.readouterr().out.splitlines() == [
        f"Final loss: {result.final_loss}",
        f"Accuracy: {eval_result.accuracy}",
    ]
    assert math.isfinite(result.final_loss)
    assert result.steps == 2
    assert 0 <= eval_result.accuracy <= 1
    assert any(Path("my_agent_model").iterdir())

    again = agent.AgentSFTTrainer(left["config"])
    again.load_model("./my_agent_model")
    assert again.evaluate("agent_sft:test").loss == pytest.approx(eval_result.loss, rel=1e-3)
