"""The picture of a run of reinforcement learning, and what is said of its two ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.rl import CURVE, beginning_and_end, draw_rl_curve

PPO = [
    {
        "step": n, "reward": n / 20, "success": n / 20, "kl_per_episode": n / 4, "entropy": 2 / n, "loss": 1 / n,
        "clip_share": 0.1, "explained_variance": None if n == 1 else 0.5, "steps_per_episode": 3.0,
    }
    for n in range(1, 21)
]  # fmt: skip
DPO = [{"step": n, "loss": 0.69 / n, "accuracy": 0.5 + n / 50} for n in range(1, 11)]


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def drawn(folder: Path, lines: list[dict[str, Any]]) -> tuple[bytes, tuple[int, ...]]:
    write(folder, lines)
    assert draw_rl_curve(folder) == folder / CURVE
    picture = (folder / CURVE).read_bytes()
    assert picture.startswith(b"\x89PNG")
    return picture, tuple(int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))


def test_there_is_a_panel_for_each_figure_that_was_measured(tmp_path: Path) -> None:
    assert drawn(tmp_path, PPO)[1] == (1350, 1560)  # seven of them, in two columns
    assert drawn(tmp_path, DPO)[1] == (1350, 390)
    assert drawn(tmp_path, [{"step": 1, "loss": 0.5}])[1] == (675, 390)


def test_the_picture_follows_the_metrics(tmp_path: Path) -> None:
    first = drawn(tmp_path, DPO[:3])[0]
    assert drawn(tmp_path, [*DPO[:3], {"said": "no step"}])[0] == first
    assert drawn(tmp_path, [*DPO[:2], {**DPO[2], "loss": 1.0}])[0] != first


def test_nulls_are_gaps_and_a_run_without_figures_is_one_line(tmp_path: Path) -> None:
    drawn(tmp_path, [{"step": 1, "loss": None, "reward": 0.0}, {"step": 2, "loss": 1.0, "reward": None}])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: there is no step to draw; give the folder of a run$"):
        draw_rl_curve(tmp_path)
    with pytest.raises(DataError, match="no step to draw"):
        draw_rl_curve(tmp_path / "nowhere")


def test_both_ends_are_means_of_a_few_lines(tmp_path: Path) -> None:
    write(tmp_path, PPO)
    ends = {title: (first, last) for title, first, last in beginning_and_end(tmp_path)}
    assert ends == {
        "reward": ("0.150", "0.900"),
        "success": ("15.0%", "90.0%"),
        "KL an episode": ("0.75 nats", "4.50 nats"),
        "explained variance": ("0.50", "0.50"),
    }
    write(tmp_path, [{"step": n, "loss": 1.0, "accuracy": n / 10} for n in (1, 2, 3)])
    assert beginning_and_end(tmp_path) == [("pairs told apart", "10.0%", "30.0%")]
