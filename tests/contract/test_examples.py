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


class Sequences:
    """A model by the losses of its samples, as `compute_losses` takes one."""

    def sample_losses(self, samples: list[Any]) -> list[float]:
        return [float(len(json.dumps(sample))) for sample in samples]


def chat_rows(n: int) -> list[dict[str, Any]]:
    turns = [("user", "What is {0} + {0}?"), ("assistant", "{0} and {0} make twice {0}.")]
    return [{"messages": [{"role": role, "content": text.format(i)} for role, text in turns]} for i in range(n)]


def test_selector(capsys: pytest.CaptureFixture[str]) -> None:
    samples = chat_rows(1200)
    left = run(examples.SELECTOR, all_samples=samples, my_model=Sequences())
    assert capsys.readouterr().out == "Selected 1000 samples\n"
    assert all(any(sample is one for one in samples) for sample in left["selected"][:5])
    assert left["losses"] == Sequences().sample_losses(samples)


def test_learner() -> None:
    batches = [{"input_ids": [[start + i] for i in range(8)]} for start in range(0, 32, 8)]
    sizes: list[int] = []
    left = run(
        examples.LEARNER, data_loader=batches, train_step=lambda batch: sizes.append(len(batch["input_ids"])) or 0.0
    )
    assert sizes == [8, 10, 10, 10]
    assert len(left["learner"]) == 32


def test_mixer(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"tool_selection": 400, "planning": 400, "timing": 300, "general": 200}
    given = {f"{task}_samples": chat_rows(n) for task, n in tasks.items()}
    left = run(examples.MIXER, **given)
    shares = {task: count / len(left["mixed_data"]) for task, count in left["dist"].items()}
    assert capsys.readouterr().out == f"Task distribution: {left['dist']}\n"
    assert sum(left["dist"].values()) == len(left["mixed_data"])
    for task, weight in left["config"].task_weights.items():
        assert abs(shares[task] - weight) * len(left["mixed_data"]) < 1


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def asked(n: int, gold: Any, tools: list[Any]) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "messages": [{"role": "user", "content": str(i)}], "tools": tools, "gold": gold}
        for i in range(n)
    ]


def test_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    """The reference's own output, to the letter, from a model that is right as often as the one there."""

    def model(messages: list[dict[str, Any]], tools: list[Any]) -> str:
        number = int(messages[-1]["content"])
        if tools:
            return '{"name": "find", "arguments": {}}' if number < 460 else "No idea."
        if "plan" in messages[0]["content"]:
            return "1. wash\n2. cook" if number < 234 else "1. sleep"
        return "Answer: 7" if number < 340 else "Answer: 8"

    def with_system(rows: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
        return [{**row, "messages": [{"role": "system", "content": words}, *row["messages"]]} for row in rows]

    left = run(
        examples.EVALUATOR,
        model=model,
        tool_test_data=asked(500, {"calls": [{"name": "find", "arguments": {}}]}, [TOOL]),
        planning_test_data=with_system(asked(300, {"plan": ["wash", "cook"]}, []), "Make a plan."),
        reasoning_test_data=with_system(asked(400, {"answer": 7, "kind": "number"}, []), "Think."),
    )
    shown = examples.EVALUATOR.split("# Output:\n")[1].split("\n\n")[0]
    assert capsys.readouterr().out == shown.replace("# ", "") + "\n"
    assert left["tool_score"] == pytest.approx(0.92)


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    left = run(examples.METHODS)
    names = [
        "A_baseline", "B1_coreset_loss", "B2_coreset_diversity", "B3_coreset_hybrid", "B4_coreset_random",
        "C_continual", "D_combined", "E_fireact", "F_agenttuning", "G_dora", "H_lora_plus",
    ]  # fmt: skip
    available, fireact = capsys.readouterr().out.splitlines()
    assert available == f"Available: {names}"
    assert fireact == f"FireAct: {left['fireact_config'].description}"
    assert (left["custom"].use_dora, left["custom"].continual_buffer_size) == (True, 4096)
