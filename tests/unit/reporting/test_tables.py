from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from rich.console import Console

from sage.libs.finetune.agent.reporting.tables import bar, facts_table, make_table, percent, success_table, write_out


def row(model: str, split: str, successes: int, n: int = 40, calls: int = 90) -> dict[str, Any]:
    return {
        "model": model, "split": split, "success": successes / n, "low": 0.0, "high": 1.0, "n": n,
        "successes": successes, "valid_calls": calls, "calls": calls,
    }  # fmt: skip


SPLITS = ("test_iid", "test_wording", "held-out", "test_compose")
ROWS = [row(model, split, 40, 100) for model, split in itertools.product(("base zero-shot", "tuned"), SPLITS)]


def drawn(table: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_the_success_table_fits_80_columns_uncut() -> None:
    assert drawn(success_table(ROWS), 80) == drawn(success_table(ROWS), 200)
    assert drawn(success_table(ROWS), 80).isascii()
    assert max(map(len, drawn(success_table(ROWS), 80).splitlines())) <= 80


def test_the_name_of_a_model_stands_once() -> None:
    lines = drawn(success_table(ROWS), 80).splitlines()
    assert [line.split()[0] for line in lines if line[:1].strip()][2:] == ["base", "tuned"]
    assert sum("test_iid (100)" in line for line in lines) == 2


def test_no_calls_is_a_dash() -> None:
    assert drawn(success_table([row("m", "test_iid", 40, calls=0)]), 80).splitlines()[-1].endswith("-")


def test_only_all_is_shown_as_all() -> None:
    assert [bar(s / 1000, 10).count("#") for s in (0, 1, 500, 999, 1000)] == [0, 1, 5, 9, 10]
    assert [percent(share) for share in (0.0, 0.5, 1.0, None)] == ["0.0%", "50.0%", "100%", "-"]


def test_piped_tables_are_not_folded_and_show_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    write_out([facts_table({"path": "x" * 150, "kind": "[bold]"}), make_table(("a", "n"), [("one", "1")])])
    assert capsys.readouterr().out.splitlines() == [f"path  {'x' * 150}", "kind  [bold]", "a    n", "------", "one  1"]
