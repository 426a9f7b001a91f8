"""A file that a collection grows: each episode once, whatever happened before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.jsonl import write_jsonl
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.io import load_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

Task = dict[str, Any]
NAMES = [f"name {n}" for n in range(8)]


class Agent:
    """Looks once, then answers; breaks off at the tasks in `broken`; remembers which it worked on."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.worked: list[tuple[str, Any]] = []

    def act(self, task: Task, history: Any) -> Any:
        if not history:
            self.worked.append((task["instruction"], task.get("metadata", {}).get("sample")))
            return {"action": "look", "observation": f"seen {task['instruction']}", "reward": 0.5}
        if task["instruction"] in self.broken:
            raise KeyError("x")
        return {"action": "finish", "action_input": {"answer": task["instruction"]}, "success": True}


def collect(path: Path, agent: Agent, names: list[str] = NAMES, **kwargs: Any) -> list[AgentTrajectory]:
    config = CollectorConfig(require_success=False, output_path=path, **kwargs)
    return TrajectoryCollector(agent, config).collect(names)


def keys(path: Path) -> list[tuple[str, int]]:
    return sorted((t.task_id, t.metadata.get("sample", 0)) for t in load_trajectories(path))


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(), NAMES[:3])
    before = path.read_bytes()
    assert caplog.text == ""
    agent = Agent()
    everything = collect(path, agent)
    assert [name for name, _ in agent.worked] == NAMES[3:]
    assert path.read_bytes().startswith(before)
    assert everything == load_trajectories(path) == collect(tmp_path / "other.jsonl", Agent())
    assert f"{path}: 3 of 8 episodes are there already and are not run again" in caplog.text
    assert collect(path, agent) == everything and len(agent.worked) == 5  # nothing is left to do


def test_what_broke_off_is_run_again_and_its_line_goes(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(NAMES[1], NAMES[4]), NAMES[:6])
    assert [t.error is None for t in load_trajectories(path)] == [True, False, True, True, False, True]
    agent = Agent(NAMES[4])
    everything = collect(path, agent, NAMES[:5])
    assert [name for name, _ in agent.worked] == [NAMES[1], NAMES[4]]
    assert [t.error for t in everything] == [None, None, None, None, "KeyError: 'x' (agent, step 2)"]
    assert [t.instruction for t in load_trajectories(path)] == [NAMES[i] for i in (0, 2, 3, 5, 1, 4)]


def test_samples_are_told_apart_and_more_can_be_added(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    [first] = collect(path, Agent(), NAMES[:1])
    assert "sample" not in first.metadata
    agent = Agent()
    three = collect(path, agent, NAMES[:2], samples_per_task=3)
    assert agent.worked == [(NAMES[0], 1), (NAMES[0], 2), (NAMES[1], 0), (NAMES[1], 1), (NAMES[1], 2)]
    assert [(t.task_id, t.metadata.get("sample")) for t in three] == [
        ("task-0001", None), ("task-0001", 1), ("task-0001", 2), ("task-0002", 0), ("task-0002", 1), ("task-0002", 2),
    ]  # fmt: skip
    assert collect(path, agent, NAMES[:2], samples_per_task=2) == [three[i] for i in (0, 1, 3, 4)]
    assert len(agent.worked) == 5 and len(keys(path)) == 6


def test_one_episode_of_one_task_is_resumed_too(tmp_path: Path) -> None:
    agent, config = Agent(), CollectorConfig(output_path=tmp_path / "t.jsonl", samples_per_task=4)
    task = {"task_id": "a", "instruction": "Look."}
    first, again = (TrajectoryCollector(agent, config).collect_single(task) for _ in range(2))
    assert first == again and agent.worked == [("Look.", None)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 3), st.sets(st.sampled_from(NAMES)), st.sampled_from([1, 4]),
    st.integers(0, 300)), min_size=1, max_size=4),
)  # fmt: skip
def test_after_any_history_each_episode_stands_once(tmp_path_factory: Any, runs: list[Any]) -> None:
    path = tmp_path_factory.mktemp("runs") / "t.jsonl"
    wanted: set[tuple[str, int]] = set()
    for count, samples, broken, concurrency, cut in runs:
        collect(path, Agent(*broken), NAMES[:count], samples_per_task=samples, concurrency=concurrency)
        wanted |= {(f"task-{n:04d}", s) for n in range(1, count + 1) for s in range(samples)}
        assert set(keys(path)) <= wanted
        path.write_bytes(path.read_bytes()[: -cut or None])  # as a kill might leave it
    agent = Agent()
    collect(path, agent, samples_per_task=3)
    assert keys(path) == [(f"task-{n:04d}", s) for n in range(1, 9) for s in range(3)]
    assert all(t.error is None for t in load_trajectories(path))


def test_another_task_of_the_same_id_is_another_set_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(), ["one", "two"])
    before = path.read_bytes()
    agent = Agent()
    with pytest.raises(DataError) as raised:
        collect(path, agent, ["one", "three"])
    assert str(raised.value) == (
        f"{path}:2: task 'task-0002' is another one here ('two', not 'three'); give the tasks ids of their own, or "
        "another output"
    )
    assert agent.worked == [] and path.read_bytes() == before


def test_an_episode_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    [first] = collect(path, Agent(), ["one"])
    write_jsonl(path, [first.to_dict(), {**first.to_dict(), "task_id": "b"}, first.to_dict()])
    line = f"^{path}:3: task 'task-0001', sample 0 stands in line 1 already; remove one of the two$"
    with pytest.raises(DataError, match=line):
        collect(path, Agent(), ["one"])


@pytest.mark.parametrize("sample", ["1", -1, True, None])
def test_a_sample_is_a_whole_number(tmp_path: Path, sample: Any) -> None:
    path = tmp_path / "t.jsonl"
    [first] = collect(path, Agent(), ["one"])
    write_jsonl(path, [{**first.to_dict(), "metadata": {"sample": sample}}])
    with pytest.raises(
        DataError, match=f"^{path}:1: field 'metadata.sample': expected a whole number from 0 on, found"
    ):
        collect(path, Agent(), ["one"])
    with pytest.raises(DataError, match=r"^task 'task-0001': field 'metadata.sample': expected a whole number"):
        TrajectoryCollector(Agent()).collect([{"instruction": "a", "metadata": {"sample": sample}}])


def test_a_sample_of_ones_own_stays_and_is_not_written_over(tmp_path: Path) -> None:
    task: Task = {"task_id": "a", "instruction": "Look.", "metadata": {"sample": 7}}
    path, agent = tmp_path / "t.jsonl", Agent()
    for _ in range(2):
        collect(path, agent, [task])  # type: ignore[list-item]
    assert agent.worked == [("Look.", 7)] and keys(path) == [("a", 7)]
    with pytest.raises(
        DataError, match=r"^task 'a': field 'metadata.sample' is given, and samples_per_task=2 would se"
    ):
        collect(path, agent, [task], samples_per_task=2)  # type: ignore[list-item]


def test_without_resume_an_existing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(), ["one"], resume=False)
    agent = Agent()
    with pytest.raises(ConfigError, match=f"^{path} exists already; set resume to go on with it, or give another"):
        collect(path, agent, ["one", "two"], resume=False)
    assert agent.worked == [] and len(keys(path)) == 1


def test_a_line_that_is_no_trajectory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(), ["one"])
    path.write_bytes(path.read_bytes() + b'{"messages": []}\n')
    with pytest.raises(DataError, match=f"^{path}:2: field 'task_id' is missing"):
        collect(path, Agent(), ["one"])


def test_partial_episodes_are_kept_with_save_intermediate_only(tmp_path: Path) -> None:
    for save in (True, False):
        path = tmp_path / f"{save}.jsonl"
        whole, partial = collect(path, Agent("two"), ["one", "two"], save_intermediate=save)
        assert [whole, partial] == load_trajectories(path)
        assert [step.observation for step in whole.steps] == (["seen one", ""] if save else ["", ""])
        assert [step.observation for step in partial.steps] == (["seen two"] if save else [])
        assert partial.error == "KeyError: 'x' (agent, step 2)" and not partial.success
        assert (whole.total_reward, partial.total_reward) == (0.5, 0.5)


def test_the_tasks_of_another_run_in_the_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent("a"), [{"task_id": "x", "instruction": "a"}])  # type: ignore[list-item]
    before = path.read_bytes()
    assert len(collect(path, Agent(), ["one"])) == 1
    assert path.read_bytes().startswith(before)  # its error is not ours to mend
    assert json.loads(before)["error"] and keys(path) == [("task-0001", 0), ("x", 0)]


def test_two_collections_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collect(path, Agent(), ["one"])
    refused: list[str] = []

    class Nested(Agent):
        def act(self, task: Task, history: Any) -> Any:
            with pytest.raises(DataError) as raised:
                collect(path, Agent(), ["one", "two", "three"])
            refused.append(str(raised.value))
            return super().act(task, history)

    collect(path, Nested(), ["one", "two"])
    assert set(refused) == {f"{path}: another collection is writing to it; let that end, or give another output"}
    assert len(collect(path, Agent(), ["one", "two", "three"])) == len(keys(path)) == 3


def test_what_another_collection_wrote_since_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one begins and ends between the look at the file and the first episode."""
    path, before = tmp_path / "t.jsonl", TrajectoryCollector._finished_before

    def then_another(self: TrajectoryCollector, attempts: Any) -> Any:
        found = before(self, attempts)
        monkeypatch.setattr(TrajectoryCollector, "_finished_before", before)
        collect(path, Agent(), NAMES[:3])
        return found

    monkeypatch.setattr(TrajectoryCollector, "_finished_before", then_another)
    agent = Agent()
    with pytest.raises(DataError, match=f"^{path}: another collection wrote to it just now; collect into it again to"):
        collect(path, agent, NAMES[:3])
    assert agent.worked == [] and len(keys(path)) == len(collect(path, agent, NAMES[:3])) == 3


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").touch()
    assert len(collect(tmp_path / "t.jsonl", Agent(), ["one"], resume=False)) == 1
