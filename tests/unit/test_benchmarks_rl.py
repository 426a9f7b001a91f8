"""The runs, the arithmetic and the picture of the benchmark of reinforcement learning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a benchmark is run as a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_every_seed_begins_with_its_start_and_the_small_setting_fits_its_time() -> None:
    from rl_arms import ARMS, FULL, SMALL, all_arms, estimate

    arms = list(all_arms(FULL))
    assert [(arm.name, arm.seed) for arm in arms] == [(name, seed) for seed in (0, 1, 2) for name in ARMS]
    assert len({arm.folder(Path("runs")) for arm in arms}) == len(arms)
    assert [arm.name for arm in all_arms(replace(SMALL, arms=("dpo",)))] == ["sft", "dpo"]
    assert sum(estimate(arm, SMALL) for arm in all_arms(replace(SMALL, seeds=(0,)))) < 20 * 60


@pytest.mark.parametrize("size", ["SMALL", "FULL"])
def test_arms_play_equally_much_and_set_nothing_that_they_do_not_read(size: str, tmp_path: Path) -> None:
    import rl_arms

    scale = getattr(rl_arms, size)
    found = {
        name: rl_arms.reinforcement(rl_arms.Arm(name, 0), scale, "start", tmp_path)
        for name in rl_arms.ARMS
        if name not in (rl_arms.START, rl_arms.RFT)
    }
    assert scale.an_iteration * scale.iterations == scale.episodes
    for config in found.values():
        assert config.without_effect() == [] and config.num_tasks == scale.tasks
    assert found["dpo"].samples_per_task * scale.tasks == scale.episodes
    assert found["grpo"].samples_per_task == scale.samples
    turn, token = found["ppo_turn"].to_dict(), found["ppo_token"].to_dict()
    assert {name for name in turn if turn[name] != token[name]} == {"gae_level", "gamma", "gae_lambda"}


def run(arm: str, seed: int, solved: str, kl: list[float] | None = None) -> dict[str, Any]:
    """A run on tasks called a, b, c ...; `solved` has a 1 for each that was."""
    right = [[name, int(one)] for name, one in zip("abcdefgh", solved, strict=False)]
    share = solved.count("1") / len(solved)
    curves = {"reward": [share, share], "kl_per_episode": kl} if kl else {}
    return {
        "arm": arm, "seed": seed, "success": share, "interval": [0.0, 1.0], "solved": right, "curves": curves,
        "by_split": {"test_iid": share}, "steps": 1, "tokens_seen": 1, "tokens_trained": 1, "train_seconds": 2.0,
        "evaluate_seconds": 1.0,
    }  # fmt: skip


RUNS = [
    run("sft", 0, "10101010"), run("dpo", 0, "11111010"), run("ppo_turn", 0, "00101010", [0.5, 12.0]),
    run("ppo_token", 0, "00101010", [0.5, 1.0]), run("sft", 1, "00101010"), run("dpo", 1, "11101010"),
]  # fmt: skip


def test_differences_are_taken_task_by_task_and_seed_by_seed() -> None:
    from rl import differences

    dpo, turn, _token, levels = differences(RUNS)
    assert (dpo["arm"], dpo["minus"], dpo["difference"]) == ("dpo", "sft", 0.25)
    assert [(one["only_first"], one["only_second"], one["p"]) for one in dpo["by_seed"]] == [(2, 0, 0.5), (2, 0, 0.5)]
    assert turn["difference"] == -0.125 and len(turn["by_seed"]) == 1
    assert (levels["arm"], levels["minus"], levels["difference"]) == ("ppo_turn", "ppo_token", 0.0)
    shuffled = [{**one, "solved": one["solved"][::-1]} if one["arm"] == "dpo" else one for one in RUNS]
    assert differences(shuffled)[0] == dpo


def test_verdicts_say_what_was_reached_and_what_cannot_be_told() -> None:
    from rl import differences, summary, verdicts

    found = {"summary": summary(RUNS), "differences": differences(RUNS)}
    assert found["summary"]["ppo_turn"]["collapsed"] and not found["summary"]["ppo_token"]["collapsed"]
    assert found["summary"]["sft"]["collapsed"] is None
    dpo, turn, levels, kl = verdicts(found)
    assert dpo["reached"] and dpo["shown"] is None
    assert not turn["reached"] and turn["measured"] == -0.125
    assert levels["reached"] and levels["measured"] == 0.0
    assert not kl["reached"] and kl["measured"] == 12.0
    without = {"summary": summary(RUNS[:1]), "differences": differences(RUNS[:1])}
    assert [line["reached"] for line in verdicts(without)] == [None, None, None, None]


def test_the_picture_is_drawn_with_and_without_curves(tmp_path: Path) -> None:
    from rl import draw, summary

    for number, runs in enumerate((RUNS, RUNS[:2])):
        picture = draw({"summary": summary(runs), "runs": runs}, tmp_path / f"{number}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_arms_are_trained_from_the_start_and_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rl_arms

    model = save_tiny(tmp_path / "model")
    monkeypatch.setattr(rl_arms, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(rl_arms, "MAX_STEPS", 2)
    scale = replace(
        rl_arms.SMALL, arms=("sft", "ppo_turn"), sft_steps=2, tasks=4, samples=2, iterations=2, minibatch=2, epochs=1,
        test_tasks=2,
    )  # fmt: skip
    runs = tmp_path / "runs"
    found = [rl_arms.measure(arm, scale, str(model), runs) for arm in rl_arms.all_arms(scale)]
    assert [one["arm"] for one in found] == ["sft", "ppo_turn"]
    assert [task for task, _ in found[0]["solved"]] == [task for task, _ in found[1]["solved"]]
    assert len(found[1]["curves"]["kl_per_episode"]) == 2 and found[0]["curves"] == {}
    config = (runs / "ppo_turn-seed0" / "config.yaml").read_text(encoding="utf-8")
    assert str(runs / "sft-seed0" / "adapter") in config
    before = (runs / "ppo_turn-seed0.json").read_bytes()
    again = [rl_arms.measure(arm, scale, str(model), runs) for arm in rl_arms.all_arms(scale)]
    assert json.loads(json.dumps(found)) == again and (runs / "ppo_turn-seed0.json").read_bytes() == before
