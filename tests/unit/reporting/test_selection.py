from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.selection import (
    Part,
    _plane,
    draw_selection,
    drawn_rows,
    parts_by_task,
    parts_by_value,
    selection_table,
)


def table_lines(table: Any) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def cloud(n: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def test_parts_add_up_to_pool_and_choice() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=200), rng.integers(0, 3, 200), np.zeros(200), rng.normal(size=1)):
        chosen = list(range(0, len(values), 7))
        parts = parts_by_value(values, chosen)
        assert sum(part.pool for part in parts) == len(values)
        assert sum(part.chosen for part in parts) == len(chosen)
        assert all(part.chosen <= part.pool for part in parts)


def test_equal_values_are_never_split_over_two_bands() -> None:
    assert parts_by_value(np.array([3, 3, 3, 3]), [0]) == [Part("3", 4, 1)]
    assert parts_by_value(np.array([1, 1, 1, 1, 9]), [4])[-1] == Part("9", 1, 1)


def test_small_numbers_keep_their_digits() -> None:
    assert parts_by_value(np.array([0.01234, 0.5, 2.0, 30.0]), [0])[0].name == "0.0123"
    assert parts_by_value(np.array([0.01, 0.02, 0.02, 4.0]), [0])[-1].name == "4"


def test_tasks_without_a_name_and_the_rest_of_many() -> None:
    assert parts_by_task(["", "a", ""], [0, 1]) == [Part("(none)", 2, 1), Part("a", 1, 1)]
    many = [Part(f"task {number}", 1, number % 2) for number in range(20)]
    lines = table_lines(selection_table({"task": many}, 20, 10))
    assert lines[2:4] == ["all 20 100% 10 100%", "task"]
    assert lines[4:6] == ["task 0 1 5.0% 0 0.0%", "task 1 1 5.0% 1 10.0%"]
    assert lines[-1] == "9 more (--json) 9 45.0% 5 50.0%"
    assert len(lines) == 4 + 12


def test_drawn_rows_are_seeded_and_few() -> None:
    chosen = list(range(0, 50_000, 10))
    drawn = drawn_rows(50_000, chosen, seed=1)
    assert len(drawn) == len(set(drawn)) == 5000
    assert drawn == sorted(drawn) == drawn_rows(50_000, chosen, seed=1) != drawn_rows(50_000, chosen, seed=2)
    assert len(set(drawn) & set(chosen)) == 2000


def test_the_plane_keeps_distances_of_what_lies_in_a_plane() -> None:
    flat = cloud(30, 2)
    turn, _ = np.linalg.qr(cloud(5, 5))
    points, shares = _plane(np.hstack([flat, np.zeros((30, 3))]) @ turn)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > shares[1]
    for one, other in ((0, 1), (5, 20)):
        assert np.linalg.norm(points[one] - points[other]) == pytest.approx(
            np.linalg.norm(flat[one] - flat[other]), rel=1e-5
        )


def test_a_picture_for_every_sort_of_pool(tmp_path: Path) -> None:
    chosen = np.arange(40) % 4 == 0
    pictures = set()
    cases: dict[str, tuple[np.ndarray, np.ndarray, list[str]]] = {
        "tasks": (cloud(40), chosen, ["a", "b"] * 20),
        "many": (cloud(40), chosen, [str(number) for number in range(40)]),
        "one": (cloud(40), chosen, [""] * 40),
        "all": (cloud(40), np.ones(40, dtype=bool), ["$x", "y"] * 20),
        "same": (np.ones((40, 3)), chosen, ["a", "b"] * 20),
        "line": (cloud(40, 1), chosen, [""] * 40),
        "single": (cloud(1), np.ones(1, dtype=bool), [""]),
    }
    for name, (features, mask, tasks) in cases.items():
        path = draw_selection(tmp_path / f"{name}.png", features, mask, tasks, f"10 of 40 rows: {name}", "drawn")
        picture = path.read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)] == [1200, 825]
        pictures.add(picture)
    assert len(pictures) == len(cases)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.png" for name in cases)
    again = draw_selection(tmp_path / "x.png", *cases["tasks"][:2], cases["tasks"][2], "10 of 40 rows: tasks", "drawn")
    assert again.read_bytes() == (tmp_path / "tasks.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        draw_selection(tmp_path / "none" / "x.png", cloud(3), np.ones(3, dtype=bool), [""] * 3, "t")


def test_names_of_tasks_are_no_formulas(tmp_path: Path) -> None:
    draw_selection(tmp_path / "a.png", np.eye(4, dtype="f4"), np.ones(4, bool), ["_own", "$\\frac$"] * 2, "t")
    assert (tmp_path / "a.png").stat().st_size > 0
