"""The rows and the arithmetic of the benchmark of replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.evaluation.replies import score_reply
from sage.libs.finetune.agent.sources.rows import read_sample

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a benchmark is run as a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("family", ["tools", "plans", "sums", "formats", "lookups"])
def test_a_family_has_enough_rows_and_none_in_both_splits(family: str) -> None:
    from task_families import family_rows

    rows = {split: family_rows(family, split, n, 1) for split, n in (("train", 450), ("test", 100))}
    prompts = {split: {row["messages"][1]["content"] for row in of} for split, of in rows.items()}
    assert len(prompts["train"]) == 450 and len(prompts["test"]) == 100 and not prompts["train"] & prompts["test"]
    assert family_rows(family, "train", 9, 1) == rows["train"][:9] != family_rows(family, "train", 9, 2)
    assert all(read_sample(row, "row") == row and row["metadata"] == {"task_type": family} for row in rows["test"])


def test_the_true_answer_is_right_and_that_of_another_family_is_not() -> None:
    from task_families import FAMILIES, family_rows

    rows = {family: family_rows(family, "test", 20) for family in FAMILIES}
    for family, of in rows.items():
        for row in of:
            gold = row["messages"][-1]
            text = gold["content"] or json.dumps(gold["tool_calls"][0]["function"])
            assert score_reply(text, gold, row["tools"]).right
            for other in rows.keys() - {family}:
                assert not score_reply(text, rows[other][0]["messages"][-1], rows[other][0]["tools"]).right


def test_no_family_gives_more_rows_than_it_has() -> None:
    from task_families import family_rows

    with pytest.raises(ValueError, match=r"plans: found 4\d\d different prompts for train, and 600 were asked for"):
        family_rows("plans", "train", 600)


def test_every_method_sees_the_same_rows_and_every_seed_is_whole() -> None:
    from continual import FULL, JOINT, METHODS, SMALL, all_arms, estimate

    arms = list(all_arms(SMALL))
    per_seed = len(SMALL.methods) + len(SMALL.uneven)
    assert [arm.seed for arm in arms] == [seed for seed in range(SMALL.seeds) for _ in range(per_seed)]
    assert len({arm.name for arm in all_arms(FULL)}) == len(list(all_arms(FULL)))
    assert {arm.method for arm in all_arms(FULL)} == {*METHODS, JOINT}
    assert estimate(SMALL, arms) < 25 * 60


def test_in_the_uneven_stream_every_other_task_has_a_tenth(tmp_path: Path) -> None:
    from continual import SMALL, Arm, write_rows
    from task_families import FAMILIES

    write_rows(Arm("10:1", "none", 0, tuple(FAMILIES)), SMALL, tmp_path)
    counts = [len((tmp_path / f"{family}_train.jsonl").read_text().splitlines()) for family in FAMILIES]
    assert counts == [6, 60, 6, 60, 6]
    assert len((tmp_path / "joint_train.jsonl").read_text().splitlines()) == sum(counts)


def result(stream: str, method: str, transfer: float | None, average: float) -> dict[str, Any]:
    return {"stream": stream, "method": method, "backward_transfer": transfer, "average": average}


def test_the_summary_says_how_much_of_the_loss_is_removed(tmp_path: Path) -> None:
    from continual import draw, summary

    found = summary([
        result("even", "none", -0.8, 0.2), result("even", "none", -0.6, 0.4), result("even", "balanced", -0.1, 0.8),
        result("even", "balanced", -0.04, 0.8), result("even", "joint", None, 0.9), result("10:1", "none", -0.5, 0.3),
    ])  # fmt: skip
    assert found["even"]["none"]["backward_transfer"] == {"mean": pytest.approx(-0.7), "lowest": -0.8, "highest": -0.6}
    assert found["even"]["balanced"]["loss_removed"] == pytest.approx(0.9)
    assert "backward_transfer" not in found["even"]["joint"] and found["even"]["joint"]["n"] == 1
    picture = draw({"summary": found}, tmp_path / "continual.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
