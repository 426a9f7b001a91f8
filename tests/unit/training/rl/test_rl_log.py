"""What a run writes down: figures without NaN, episodes when it is time, and the tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent import AgentTrajectory, load_trajectories
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.training.rl.log import RLLog


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_step_is_a_line_and_is_told(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    log = RLLog(tmp_path, lambda *arguments: told.append(arguments))
    log.step(1, 3, {"reward": 0.5, "success": 0.25, "kl_per_episode": float("inf"), "loss": float("nan"), "none": None})
    assert lines_of(tmp_path) == [
        {"step": 1, "reward": 0.5, "success": 0.25, "kl_per_episode": None, "loss": None, "none": None}
    ]
    assert told == [("train", 1, 3, "reward 0.50 · success 25%")]


def test_steps_that_are_done_again_are_forgotten(tmp_path: Path) -> None:
    log = RLLog(tmp_path, silent)
    log.drop_after(0)
    assert lines_of(tmp_path) == []
    for number in (1, 2, 3):
        log.step(number, 3, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a killed run was writing it
    log.drop_after(2)
    log.step(3, 3, {"loss": 2.0})
    assert lines_of(tmp_path) == [{"step": n, "loss": loss} for n, loss in ((1, 1.0), (2, 1.0), (3, 2.0))]


def test_episodes_are_written_at_first_and_when_it_is_time(tmp_path: Path) -> None:
    log = RLLog(tmp_path, silent, every=3)
    for number in range(1, 8):
        log.episodes(number, [AgentTrajectory(f"{number}-{at}", "Do it.") for at in range(20)])
    written = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in written] == [f"iteration-000{number}.jsonl" for number in (1, 3, 6)]
    assert [one.task_id for one in load_trajectories(written[1])] == [f"3-{at}" for at in range(16)]


def test_the_tracker_shows_what_is_written_from_the_step_that_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((1, 1.0), (3, 2.0)):  # the second call goes on after step 2
        log = RLLog(tmp_path, silent, report_to="tensorboard")
        with log.open():
            for number in range(first, 5):
                log.step(number, 5, {"reward": value, "loss": float("nan")})
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert shown.Tags()["scalars"] == ["train/reward"]
    found = [(event.step, event.value) for event in shown.Scalars("train/reward")]
    assert found == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    log = RLLog(tmp_path, silent, report_to="tensorboard")
    with log.open():
        log.drop_after(0)
        log.step(1, 1, {"loss": 1.0})
        log.episodes(1, [AgentTrajectory("a", "Do it.")])
    assert list(tmp_path.iterdir()) == []
