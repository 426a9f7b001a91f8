from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.capabilities.test_repliers import completion, server

from sage.libs.finetune.agent.capabilities.episode_sets import decides, episode_tasks, episodes_score, evaluate_episodes
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.report import CapabilityScore
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep


def by_heart(tasks: list[dict[str, Any]]) -> Any:
    """A function `messages -> reply` that plays the expert: it finds the task by its words."""
    known = {task["instruction"]: task for task in tasks}

    def reply(messages: list[Mapping[str, Any]]) -> dict[str, Any]:
        task = known[next(message["content"] for message in messages if message["role"] == "user")]
        seen = [message["content"] for message in messages if message["role"] == "tool"]
        step = DeskExpert().act(task, [TrajectoryStep("", "", {}, observation) for observation in seen])
        if step.action == "finish":
            return {"content": step.action_input["answer"]}
        call = {"name": step.action, "arguments": json.dumps(step.action_input)}
        return {"content": step.thought, "tool_calls": [{"id": "1", "type": "function", "function": call}]}

    return reply


def test_the_expert_brings_every_task_to_a_good_end() -> None:
    score = evaluate_episodes(DeskExpert(), "builtin:16")
    assert (score.capability, score.score, score.num_samples, score.errors) == ("episodes", 1.0, 16, 0)
    assert score.details["valid_calls"] == 1.0 and score.details["ended"] == {"finish": 16}
    assert score.details["wasted_calls"] == 0.0
    assert all(record["trajectory"]["steps"] for record in score.replies)
    assert CapabilityScore.from_dict(json.loads(json.dumps(score.to_dict()))) == score


def test_a_function_that_replies_plays_the_same_episodes_as_the_agent() -> None:
    tasks = desk_tasks("test_iid", 15)
    agent, function = evaluate_episodes(DeskExpert(), tasks), evaluate_episodes(by_heart(tasks), tasks)
    assert function.score == 1.0

    def calls(score: CapabilityScore) -> list[Any]:
        return [[step["action_input"] for step in record["trajectory"]["steps"]] for record in score.replies]

    assert calls(function) == calls(agent)


def test_an_agent_that_errs_scores_less_and_the_interval_holds_its_score() -> None:
    score = evaluate_episodes(NoisyDeskExpert(0.5), desk_tasks("test_iid", 30))
    assert 0.2 < score.score < 0.9
    assert score.interval is not None and score.interval.low < score.score < score.interval.high
    assert {record["value"] for record in score.replies} == {0.0, 1.0}


def test_a_function_that_raises_is_an_error_and_no_zero() -> None:
    def reply(messages: list[Any]) -> str:
        if "Cancel" in messages[1]["content"]:
            raise ValueError("out of words")
        return "done"

    tasks = [task for task in desk_tasks("train", 60) if task["metadata"]["kind"] == "order_cancel"]
    score = evaluate_episodes(reply, tasks)
    broken = [record for record in score.replies if record["error"]]
    assert 0 < score.errors == len(broken) < len(tasks) and score.num_samples == len(tasks) - score.errors
    assert broken[0]["error"] == "ModelError: ValueError: out of words (agent, step 1)" and broken[0]["value"] is None


def test_a_local_model_plays() -> None:
    score = evaluate_episodes(
        tiny_model(), "builtin:3", tokenizer=tiny_tokenizer(), max_steps=2, max_new_tokens=4, batch_size=2
    )
    assert score.num_samples == 3 and score.score == 0.0
    assert all(record["trajectory"]["steps"][0]["reply"] is not None for record in score.replies)


def test_a_call_made_twice_is_wasted() -> None:
    def agent(task: Any, history: list[TrajectoryStep]) -> dict[str, Any]:
        if len(history) == 2:
            return {"action": "finish", "action_input": {"answer": "?"}}
        return {"action": "list_events", "action_input": {"day": "Monday"}}

    tasks = [task for task in desk_tasks("train", 30) if task["metadata"]["family"] == "calendar"][:3]
    score = evaluate_episodes(agent, tasks)
    assert score.details["wasted_calls"] == 0.5 and score.details["mean_steps"] == 3.0
    assert score.replies[0]["details"]["wasted"]["repeated"] == 1


def test_a_server_plays_the_same_episodes() -> None:
    tasks = desk_tasks("test_iid", 6)
    reply = by_heart(tasks)
    with server(lambda asked: completion(reply(asked["messages"]))) as running:
        score = evaluate_episodes(f"{running.url}#tiny", tasks, max_new_tokens=9, concurrency=3)
    assert (score.score, score.errors) == (1.0, 0)
    assert {(asked["temperature"], asked["max_tokens"]) for asked in running.asked} == {(0.0, 9)}


def test_an_episode_that_nobody_judged_is_skipped() -> None:
    score = evaluate_episodes(lambda messages: "4", [{"instruction": "2 + 2?"}], environment=None)
    assert math.isnan(score.score) and (score.num_samples, score.details["skipped"]) == (0, 1)
    judged = evaluate_episodes(lambda messages: "4", [{"instruction": "2 + 2?", "answer": 4}], environment=None)
    assert judged.score == 1.0


def test_progress_is_told_episode_by_episode() -> None:
    told: list[tuple[str, int, int]] = []

    def progress(label: str, done: int, total: int, detail: str = "") -> None:
        told.append((label, done, total))

    evaluate_episodes(DeskExpert(), "builtin:2", progress=progress)
    assert told == [("episodes", 0, 2), ("episodes", 1, 2), ("episodes", 2, 2)]


def test_built_in_tasks_are_none_that_are_trained_on() -> None:
    trained = {task["instruction"] for task in desk_tasks("train", 260)}
    assert not trained & {task["instruction"] for task in episode_tasks("builtin:64")}
    assert [task["metadata"]["split"] for task in episode_tasks("builtin:4")].count("test_wording") == 1


def test_who_decides() -> None:
    def agent(task: Any, history: Any) -> None:
        raise NotImplementedError

    assert decides(agent) and decides(DeskExpert) and not decides(by_heart([])) and not decides("some/model")


def test_what_names_no_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="'desk' names no tasks; give a list of tasks"):
        episode_tasks("desk")
    with pytest.raises(ConfigError, match="expected a list of tasks or 'builtin:N', found dict"):
        episode_tasks({"instruction": "Do it."})
    with pytest.raises(DataError):
        evaluate_episodes(DeskExpert(), [{"task_id": "a"}], environment=DeskEnvironment)


def test_no_episode_is_nothing_measured() -> None:
    assert math.isnan(episodes_score([]).score)
    assert episodes_score([AgentTrajectory("a", "Do it.", error="timeout")]).errors == 1
