"""The rows of the training benchmarks, and that both sides of them compute the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny, tiny_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a benchmark is run as a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_desk_rows_differ_and_share_most_of_their_tokens() -> None:
    from sft_rows import desk_rows, facts

    rows = desk_rows(24, 3, tiny_tokenizer(), None)
    assert len({tuple(row["input_ids"]) for row in rows}) == len(rows) == 24
    assert len({str(row["sample"]["tools"]) for row in rows}) == 3
    assert facts(rows, 8)["shared_share"] > 0.6


def test_shared_share_counts_what_a_whole_batch_begins_with() -> None:
    from sft_rows import facts

    rows = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in ([1, 2, 3], [1, 2, 4], [1, 5, 6], [7, 8, 9])]
    assert facts(rows, 2)["shared_share"] == round((2 + 2 + 1 + 0) / 12, 3)
    assert facts(rows, 3)["shared_share"] == round(3 / 12, 3)
    assert facts(rows, 4)["shared_share"] == 0
    assert facts(rows, 4)["trained_tokens"] == 8


def test_longer_rows_have_several_requests_and_about_the_length_asked_for() -> None:
    from sft_rows import desk_rows, facts

    rows = desk_rows(4, 1, tiny_tokenizer(), 3000)
    assert 2000 < facts(rows, 4)["mean_tokens"] < 4500
    assert all(sum(message["role"] == "user" for message in row["sample"]["messages"]) > 1 for row in rows)


def test_too_few_rows_are_refused() -> None:
    from sft_rows import _rendered

    from sage.libs.finetune.agent.errors import DataError

    with pytest.raises(DataError, match="gives 1 different rows of 2"):
        _rendered([_sample(), _sample()], 2, tiny_tokenizer(), "the desk")


@pytest.mark.slow
def test_trl_and_ours_have_the_same_losses_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import sft_throughput

    options = argparse.Namespace(
        data="shared-prefix", tool_sets=2, row_tokens=None, batch_size=4, dtype="fp32", row_order="shuffled",
        loss_steps=3,
    )  # fmt: skip
    model = str(save_tiny(tmp_path / "model", kind="qwen2"))
    found = sft_throughput.compare_losses(options, model, tmp_path / "losses")
    assert found["largest_difference"] < 1e-4, found
    assert found["ours"][-1] != found["ours"][0]


def _sample() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]}
