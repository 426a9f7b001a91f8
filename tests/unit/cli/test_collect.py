"""`collect` with every executor, environment and agent, run for real."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import DeskExpert
from sage.libs.finetune.agent.trajectories.io import load_trajectories

SHOP = '''
class Shop:
    """Prices."""

    def price(self, item: str) -> int:
        """The price of an item.

        Args:
            item: Its name.
        """
        return {"pen": 2, "desk": 120}[item]


def tasks(split, n, seed):
    prices = {"pen": "2", "desk": "120"}
    return [{"instruction": f"Price of the {item}?", "answer": prices[item]} for item in list(prices)[:n]]
'''


def rows(path: Path) -> list[dict[str, Any]]:
    return sorted((t.to_dict() for t in load_trajectories(path)), key=lambda row: json.dumps(row, sort_keys=True))


def test_at_once_gives_the_same_episodes(cli: Any, tmp_path: Path) -> None:
    shared = ("collect", "--agent", "noisy", "--num-tasks", 20, "--samples-per-task", 2)
    assert cli(*shared, "-o", "a.jsonl").code == 0
    code, out, err = cli(*shared, "--concurrency", 4, "-o", "b.jsonl", "--json")
    assert code == 0 and json.loads(out)["episodes"] == 40 and err.startswith("collect 40/40 ")
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl")
    assert sorted({t.metadata["sample"] for t in load_trajectories(tmp_path / "b.jsonl")}) == [0, 1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_gives_the_same_episodes(cli: Any, tmp_path: Path) -> None:
    assert cli("collect", "--num-tasks", 8, "-o", "a.jsonl").code == 0
    code, out, err = cli("collect", "--num-tasks", 8, "--executor", "ray", "-o", "b.jsonl", "--json")
    assert code == 0 and json.loads(out)["success"] == 8, err
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl")


def test_resuming_says_what_is_there_and_counts_it(cli: Any) -> None:
    assert cli("collect", "--num-tasks", 4, "-o", "t.jsonl").code == 0
    code, out, err = cli("collect", "--num-tasks", 6, "-o", "t.jsonl", "--resume", "--concurrency", 2)
    assert code == 0 and "episodes     6 (2 new)\n" in out
    said, progress = err.splitlines()
    assert said == "warning: t.jsonl: 4 of 6 episodes are there already and are not run again"
    assert progress.startswith("collect 6/6 ")


def test_errors_are_counted_by_kind(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    act = DeskExpert.act

    def fail(self: DeskExpert, task: Any, history: Any) -> Any:
        number = int(task["task_id"][-1])
        if history and number < 3:
            raise (KeyError if number < 2 else OSError)("no idea")
        return act(self, task, history)

    monkeypatch.setattr(DeskExpert, "act", fail)
    code, out, err = cli("collect", "--num-tasks", 5, "-o", "t.jsonl", "--concurrency", 3)
    assert code == 1 and "errors       3 (KeyError 2, OSError 1)\n" in out
    assert "2 successful, 3 errors\n" in err
    code, out, _ = cli("collect", "--num-tasks", 5, "-o", "u.jsonl", "--json")
    assert json.loads(out)["errors_by_kind"] == {"KeyError": 2, "OSError": 1}


def test_a_fault_in_every_episode_stops_it(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: DeskExpert, task: Any, history: Any) -> Any:
        raise PermissionError("wrong key")

    monkeypatch.setattr(DeskExpert, "act", fail)
    code, out, err = cli("collect", "--num-tasks", 90, "-o", "t.jsonl", "--stop-after-failures", 5)
    assert (code, out) == (1, "") and "error: collect: stopped, since 5 episodes in a row broke off" in err
    assert len(load_trajectories(tmp_path / "t.jsonl")) == 5


def test_an_episode_that_takes_too_long(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self: DeskExpert, task: Any, history: Any) -> Any:
        import asyncio

        await asyncio.sleep(60)

    monkeypatch.setattr(DeskExpert, "act", hang)
    code, out, _ = cli("collect", "--num-tasks", 1, "-o", "t.jsonl", "--episode-timeout", 0.05, "--json")
    assert code == 1 and json.loads(out)["errors_by_kind"] == {"timeout": 1}


def test_an_environment_of_ones_own(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shop = ("collect", "--environment", "python:shop.py:Shop", "-o", "t.jsonl", "--num-tasks", 2)
    code, _, err = cli(*shop)
    assert code == 2 and err == (
        "error: collect: environment 'python:shop.py:Shop' has no agent 'expert'; give --agent endpoint, or a model's "
        "id or folder\n"
    )
    assert cli("collect", "--environment", "dsek", "-o", "t.jsonl").err.startswith(
        "error: collect: unknown environment 'dsek'; did you mean 'desk'?"
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--base-url", "http://127.0.0.1:1/v1"],
            "--base-url is for --agent endpoint, not for --agent expert; leave it",
        ),
        (["--strategy", "react"], "--strategy is for models, not for --agent expert; leave it out"),
        (
            ["--agent", "noisy", "--temperature", "1"],
            "--temperature is for models, not for --agent noisy; leave it out",
        ),
        (["--agent", "endpoint"], "--agent endpoint needs --endpoint-model, the model's name on the server"),
        (["--agent", "endpoint", "--endpoint-model", "m", "--strategy", "raect"], "unknown strategy 'raect'; did you"),
        (["--agent", "./m", "--endpoint-model", "m"], "--endpoint-model is for --agent endpoint, not for --agent ./m"),
        (
            ["--agent", "./m", "--concurrency", "4"],
            "a model on this machine works on --batch-size episodes at once; le",
        ),
        (["--failure-rate", "0.5"], "--failure-rate is for --agent noisy, not for --agent expert; leave it out"),
        (["--batch-size", "4"], "--batch-size is for models on this machine, not for --agent expert; leave it out"),
        (["--ray-cpus", "4"], "--ray-cpus is for --executor ray, not for --executor local; leave it out"),
        (["--split", "dev", "--tasks", "x"], "--split is for the environment's own tasks, not for --tasks; leave it"),
        (["--concurrency", "0"], "command line: 'concurrency': must be at least 1, not 0"),
    ],
)
def test_settings_that_nobody_reads_are_errors(cli: Any, tmp_path: Path, flags: list[str], line: str) -> None:
    code, out, err = cli("collect", "-o", "t.jsonl", *flags)
    assert (code, out) == (2, "") and err.startswith(f"error: collect: {line}") and err.count("\n") == 1
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
def test_an_endpoint_that_is_down_breaks_episodes_off_and_says_who_was_asked(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    (tmp_path / "shop.py").write_text(SHOP)
    from sage.libs.finetune.agent.trajectories import endpoint

    whole = endpoint.EndpointAgent.__init__
    monkeypatch.setattr(
        endpoint.EndpointAgent, "__init__", lambda self, *args, **kwargs: whole(self, *args, **kwargs, max_retries=0)
    )
    code, out, err = cli(
        "collect", "--environment", "python:shop.py:Shop", "--agent", "endpoint", "--endpoint-model", "tiny",
        "--base-url", "http://127.0.0.1:9/v1", "--strategy", "react", "--temperature", 0.5, "--num-tasks", 2,
        "--concurrency", 2, "-o", "t.jsonl",
    )  # fmt: skip
    assert code == 1 and "2 of 2 episodes broke off" in err and "secret-key" not in out + err
    for trajectory in load_trajectories(tmp_path / "t.jsonl"):
        assert trajectory.tools[0]["function"]["name"] == "price" and "secret-key" not in str(trajectory)
        known = {"agent", "seed", "environment", "endpoint_model", "method", "temperature"}
        assert {trajectory.metadata[name] for name in known} == {
            "endpoint", 0, "python:shop.py:Shop", "tiny", "react", 0.5
        }  # fmt: skip
    resume = ("collect", "--environment", "python:shop.py:Shop", "--agent", "endpoint", "--endpoint-model", "tiny",
              "-o", "t.jsonl", "--resume")  # fmt: skip
    for flags, said in (
        (["--strategy", "cot", "--temperature", 0.5], "with --strategy react, not cot"),
        (["--strategy", "react"], "with --temperature 0.5"),
        (["--temperature", 0.5], "with --strategy react"),
    ):
        code, _, err = cli(*resume, *flags)
        assert (code, err) == (
            2, f"error: collect: t.jsonl:1: was made {said}; do the same, or give another --output\n"
        )  # fmt: skip
