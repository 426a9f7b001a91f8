"""filter and preferences, run for real."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.cli import main
from sage.libs.finetune.agent.cli.commands import preferences
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

FIREACT = Path(__file__).parents[3] / "../shared/data/fireact/alpaca_hotpotqa_multimethod.json"


def episode(task_id: str, answer: str, success: bool = True, **fields: Any) -> AgentTrajectory:
    values: dict[str, Any] = {"total_reward": float(success), **fields}
    return AgentTrajectory(task_id, "How many?", [TrajectoryStep("", "finish", {"answer": answer})], success, **values)


def lines_of(table: str) -> list[str]:
    """The lines of a table, however wide its columns are."""
    return [re.sub("-{3,}", "---", " ".join(line.split())) for line in table.splitlines()]


EPISODES = [
    episode("a", "1"),
    episode("a", "1"),
    episode("a", "2", total_reward=0.75),
    episode("a", "3", success=False),
    episode("b", "4"),
    episode("c", "5", success=False, error="KeyError: 'x' (agent, step 1)"),
]


@pytest.fixture(autouse=True)
def with_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    if preferences.COMMAND not in main.COMMANDS:
        monkeypatch.setattr(main, "COMMANDS", (*main.COMMANDS, preferences.COMMAND))


def test_filter_says_why_the_others_went(cli: Any, tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", EPISODES)
    code, out, err = cli("filter", "t.jsonl", "-o", "k.jsonl", "--drop-duplicates", "--max-per-task", 1)
    assert (code, err) == (0, "") and lines_of(out) == [
        "6 trajectories n share",
        "---",
        "kept 2 33.3%",
        "dropped: broke off with an error 1 16.7%",
        "dropped: no success 1 16.7%",
        "dropped: same as one kept 1 16.7%",
        "dropped: more than 1 of its task 1 16.7%",
        "tasks kept, of 3 2 66.7%",
        "",
        "next: sage-finetune convert k.jsonl -o rows.jsonl",
    ]
    assert load_trajectories(tmp_path / "k.jsonl") == [EPISODES[0], EPISODES[4]]
    stats = json.loads(cli("filter", "t.jsonl", "-o", "k.jsonl", "--json").out)
    assert stats["kept"] == 4 and stats["duplicate"] == stats["over_cap"] == stats["unjudged"] == 0


def test_filter_takes_every_form_that_can_be_imported(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [to_chatml(one) for one in EPISODES])
    assert cli("filter", "rows.jsonl", "-o", "k.jsonl").code == 0
    assert load_trajectories(tmp_path / "k.jsonl") == [EPISODES[i] for i in (0, 1, 2, 4)]

    lines = b"".join(json.dumps(one.to_dict()).encode() + b"\n" for one in EPISODES)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines))
    for source in ("auto", "trajectory"):
        assert cli("filter", "t.jsonl.gz", "-o", "k.jsonl", "--from", source).code == 0
        assert load_trajectories(tmp_path / "k.jsonl") == [EPISODES[i] for i in (0, 1, 2, 4)]


def test_rows_that_nobody_judged_are_said_to_be_so(cli: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])
    code, out, _ = cli("filter", "rows.jsonl", "-o", "k.jsonl")
    assert code == 3 and out.endswith(
        "1 of them were never judged, and count as no success with the rewards they have; "
        "--no-require-success --min-reward 0 lets them through\n"
    )
    assert cli("filter", "rows.jsonl", "-o", "k.jsonl", "--no-require-success", "--min-reward", 0).code == 0
    code, _, err = cli("preferences", "rows.jsonl", "-o", "p.jsonl")
    assert code == 3 and err == (
        "error: preferences: no pair in rows.jsonl and nothing was written; 1 episodes were never judged: only "
        "episodes with a success or failure can be paired\n"
    )


def test_an_episode_without_steps_is_a_reason_not_an_error(cli: Any, tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", [AgentTrajectory("a", "Go.", success=True, total_reward=1.0), EPISODES[0]])
    assert json.loads(cli("filter", "t.jsonl", "-o", "k.jsonl", "--json").out)["empty"] == 1


@pytest.mark.parametrize("command", ["filter", "preferences"])
def test_a_row_that_cannot_be_read_ends_it(cli: Any, tmp_path: Path, command: str) -> None:
    for name, rows in (("t", [one.to_dict() for one in EPISODES]), ("r", [to_chatml(one) for one in EPISODES])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*map(json.dumps, rows[:3]), '{"task_id": 3', ""]))
        code, out, err = cli(command, f"{name}.jsonl", "-o", "k.jsonl")
        assert (code, out) == (2, "") and err.startswith(f"error: {command}: {name}.jsonl:4: not JSON")
    (tmp_path / "t.jsonl").write_text(json.dumps({**EPISODES[0].to_dict(), "success": "yes"}))
    assert "t.jsonl:1: field 'success': expected bool, found str" in cli(command, "t.jsonl", "-o", "k.jsonl").err
    assert "unknown" in cli(command, "t.jsonl", "-o", "k.jsonl", "--from", "sharegtp").err
    assert "'output' is the input file" in cli(command, "t.jsonl", "-o", "t.jsonl").err
    assert not (tmp_path / "k.jsonl").exists()


@pytest.mark.skipif(not FIREACT.exists(), reason="needs FireAct's released rows in ../shared/data/fireact")
def test_fireact_keeps_694_of_734(cli: Any) -> None:
    code, out, _ = cli("filter", FIREACT, "-o", "k.jsonl", "--json")
    stats = json.loads(out)
    assert code == 0 and (stats["total"], stats["kept"], stats["failed"]) == (734, 694, 40)


def test_preferences(cli: Any, tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", EPISODES)
    code, out, err = cli("preferences", "t.jsonl", "-o", "p.jsonl", "--max-pairs-per-task", 5)
    assert (code, err) == (0, "") and lines_of(out) == [
        "6 episodes of 2 tasks n",
        "---",
        "pairs 3",
        "tasks with success and failure 1",
        "tasks nobody failed at 1",
        "left out: broke off with an error 1",
        "",
        "p.jsonl has prompt, chosen, rejected and tools, as TRL's DPOTrainer takes them",
    ]
    rows = [row for _, row in read_jsonl(tmp_path / "p.jsonl")]
    assert [row["rejected"] for row in rows] == [[{"role": "assistant", "content": "3"}]] * 3
    assert {row["chosen"][0]["content"] for row in rows} == {"1", "2"}
    data = json.loads(cli("preferences", "t.jsonl", "-o", "p.jsonl", "--divergence", "step", "--json").out)
    assert data["pairs"] == 1 and data["output"] == "p.jsonl"


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ([0, 1, 4], "nobody failed: collect several samples of each task, or with a weaker agent"),
        ([3], "nobody succeeded: collect with a better agent"),
        ([3, 4], "no task has a success and a failure: collect several samples of each task"),
        ([5], "every episode broke off or has no steps: mend what broke them and collect again"),
    ],
)
def test_no_pair_is_a_failed_check_that_says_why(cli: Any, tmp_path: Path, kept: list[int], why: str) -> None:
    save_trajectories(tmp_path / "t.jsonl", [EPISODES[index] for index in kept])
    code, out, err = cli("preferences", "t.jsonl", "-o", "p.jsonl")
    assert code == 3 and err == f"error: preferences: no pair in t.jsonl and nothing was written; {why}\n"
    assert not (tmp_path / "p.jsonl").exists() and "pairs" in out


def test_pairs_too_close_are_told(cli: Any, tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", EPISODES)
    code, out, err = cli("preferences", "t.jsonl", "-o", "p.jsonl", "--min-reward-gap", 2)
    assert code == 3 and "no pair: rewards too close" in out and "lower --min-reward-gap" in err


def test_a_file_without_rows_is_one_line(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    for command in ("filter", "preferences"):
        for source in ("auto", "trajectory", "chat"):
            code, out, err = cli(command, "none.json", "-o", "k.jsonl", "--from", source)
            assert (code, out) == (2, "") and err.startswith(
                f"error: {command}: none.json: holds no rows; expected one"
            )


def test_the_output_is_not_among_what_is_read(cli: Any, tmp_path: Path) -> None:
    """A second run would read its own output: twice the rows without a word."""
    (tmp_path / "in").mkdir()
    save_trajectories(tmp_path / "in" / "t.jsonl", EPISODES)
    for command in ("filter", "preferences", "convert"):
        code, _, err = cli(command, "in", "-o", "in/out.jsonl")
        assert code == 2 and "'output' lies in the input folder" in err
        code, _, err = cli(command, "in/t.jsonl", "-o", "in/../in/t.jsonl")
        assert code == 2 and "'output' is the input file" in err
    assert load_trajectories(tmp_path / "in" / "t.jsonl") == EPISODES


def test_what_a_trajectory_cannot_hold_is_said(cli: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4", "weight": 0.5}]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns, "metadata": {"success": True, "total_reward": 1}}])
    assert "no place for messages.weight (1 row" in cli("filter", "rows.jsonl", "-o", "k.jsonl").out
    assert json.loads(cli("filter", "rows.jsonl", "-o", "k.jsonl", "--json").out)["lost"] == {"messages.weight": 1}


def test_episodes_whose_tools_were_inferred_are_of_one_task(cli: Any, tmp_path: Path) -> None:
    outputs = [("Action: find[x]\nObservation: y\nAction: finish[1]", True), ("Action: ask[x]\nFinal Answer: 2", False)]
    write_jsonl(tmp_path / "r.jsonl", [{"instruction": "a", "output": text, "success": won} for text, won in outputs])
    assert json.loads(cli("preferences", "r.jsonl", "-o", "p.jsonl", "--json").out)["pairs"] == 1
    [(_, row)] = read_jsonl(tmp_path / "p.jsonl")
    assert [tool["function"]["name"] for tool in row["tools"]] == ["find", "ask"]
