from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.selection.told import BY_LOSS, ROWS, WORDS, Told, row

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.coreset import CoresetSelector


def test_the_band_cuts_losses_before_the_strategy_looks() -> None:
    selector = CoresetSelector("loss_topk", 5, loss_band=(0.1, 0.8))
    losses = np.array([sample["metadata"]["loss"] for sample in ROWS])
    low, high = np.quantile(losses, [0.1, 0.8])
    expected = [i for i in BY_LOSS if low <= losses[i] <= high]
    assert selector.select_indices(ROWS, Told()) == expected[:5]
    assert selector.last is not None and selector.last.dropped == {"loss_band": 40 - len(expected)}


def test_near_duplicates_go_and_the_first_of_them_stays() -> None:
    twice = [sample for sample in ROWS[:10] for _ in range(2)]
    selector = CoresetSelector("random", 10, near_duplicates=0.999)
    assert sorted(selector.select_indices(twice)) == list(range(0, 20, 2))
    assert selector.last is not None and selector.last.dropped == {"near_duplicates": 10}


def test_a_duplicate_of_what_a_guard_dropped_stays() -> None:
    first, second = row(3, loss=99.0), row(3, loss=1.0)
    samples = [first, *ROWS[4:20], second]
    selector = CoresetSelector("loss_topk", 17, loss_band=(0, 0.95), near_duplicates=0.999)
    assert second in selector.select(samples, Told())
    assert selector.last is not None and selector.last.dropped == {"loss_band": 1, "near_duplicates": 0}


def test_short_responses_go() -> None:
    samples = [{"prompt": f"Say {word}.", "completion": word * (1 + (i > 5) * 20)} for i, word in enumerate(WORDS)]
    selector = CoresetSelector("random", 4, min_response_tokens=20, tokenizer=tiny_tokenizer())
    assert sorted(selector.select_indices(samples)) == [6, 7, 8, 9]
    by_model = CoresetSelector("loss_topk", 4, min_response_tokens=20, tokenizer=tiny_tokenizer())
    assert sorted(by_model.select_indices(samples, tiny_model())) == [6, 7, 8, 9]
    with pytest.raises(ConfigError, match="the model tells losses and counts no tokens; give `tokenizer`"):
        CoresetSelector("random", 4, min_response_tokens=2).select(ROWS, Told())


def test_too_few_after_the_guards_says_what_each_dropped() -> None:
    twice = ROWS + ROWS
    selector = CoresetSelector("hybrid", 60, loss_band=(0, 0.5), near_duplicates=0.999)
    pattern = (
        r"60 of 80 samples are asked for and the guards leave \d+ "
        r"\(dropped: loss_band \d+, near_duplicates \d+\); loosen a guard or lower the target size"
    )
    with pytest.raises(ConfigError, match=pattern):
        selector.select(twice, Told())


@pytest.mark.parametrize(
    "options", [{"strategy": "ifd"}, {"strategy": "random", "ifd_band": (0, 0.9)}, {"features": "model"}]
)
def test_who_tells_losses_only_cannot_tell_more(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="sample_losses"):
        CoresetSelector(target_size=5, **options).select(ROWS, Told())
