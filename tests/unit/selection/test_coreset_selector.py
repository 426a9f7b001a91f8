from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer
from tests.unit.selection.told import BY_LOSS, ROWS, TURNED, Told, Unasked, row

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection.coreset import STRATEGIES, CoresetSelector, StrategyName
from sage.libs.finetune.agent.selection.scoring import score_samples
from sage.libs.finetune.agent.selection.strategies import diverse, within_band
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.types import TaskSample


def test_the_names_are_the_documented_ones() -> None:
    assert set(STRATEGIES) == set(get_args(StrategyName))


def test_the_example_of_the_reference() -> None:
    all_samples, my_model = ROWS, Told()
    selector = CoresetSelector(
        strategy="hybrid",
        target_size=10,
        loss_ratio=0.6,
    )
    selected = selector.select(all_samples, model=my_model)
    assert len(selected) == 10
    assert [sample["metadata"]["loss"] for sample in selected[:6]] == [ROWS[i]["metadata"]["loss"] for i in BY_LOSS[:6]]
    losses = selector.compute_losses(all_samples, model=my_model)
    assert losses == [sample["metadata"]["loss"] for sample in ROWS] and type(losses[0]) is float
    distances = selector.compute_diversity(all_samples)
    assert distances.shape == (40, 40) and distances.dtype == np.float32


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"ifd", "ifd_diversity", "rds"}))
def test_each_gives_the_objects_themselves_and_leaves_them_alone(strategy: str) -> None:
    before = copy.deepcopy(ROWS)
    selector = CoresetSelector(strategy, 12)
    selected = selector.select(ROWS, Told())
    assert len(selected) == 12 == len({id(sample) for sample in selected})
    assert {id(sample) for sample in selected} <= {id(sample) for sample in ROWS}
    assert before == ROWS
    assert selector.last is not None and [ROWS[i] for i in selector.last.indices] == selected
    assert selected == CoresetSelector(strategy, 12).select(ROWS, Told())


def test_loss_topk_and_ccs_on_losses_told() -> None:
    assert CoresetSelector("loss_topk", 5).select_indices(ROWS, Told()) == BY_LOSS[:5]
    picked = CoresetSelector("ccs", 17).select_indices(ROWS, Told())
    losses = [ROWS[i]["metadata"]["loss"] for i in picked]
    assert max(losses) < 1.6 and len(set(losses)) >= 14  # the hardest are cut; nearly every other value is there


def test_what_needs_no_model_asks_none() -> None:
    for strategy in ("random", "diversity", "facility_location", "kcenter"):
        assert len(CoresetSelector(strategy, 5, near_duplicates=0.99).select(ROWS, Unasked())) == 5
        assert len(CoresetSelector(strategy, 5, near_duplicates=0.99).select(ROWS)) == 5


@pytest.mark.parametrize(
    ("selector", "what"),
    [
        (CoresetSelector("loss_topk", 5), "strategy 'loss_topk'"),
        (CoresetSelector("hybrid", 5), "strategy 'hybrid'"),
        (CoresetSelector("hybrid", 5000), "strategy 'hybrid'"),
        (CoresetSelector("ifd", 5), "strategy 'ifd'"),
        (CoresetSelector("ccs", 5), "strategy 'ccs'"),
        (CoresetSelector("diversity", 5, features="model"), "features 'model'"),
        (CoresetSelector("random", 5, loss_band=(0.1, 0.9)), "loss_band"),
        (CoresetSelector("random", 5, ifd_band=(0.1, 0.9)), "ifd_band"),
        (CoresetSelector("random", 5, min_response_tokens=2), "min_response_tokens"),
    ],
)
def test_a_missing_model_is_named(selector: CoresetSelector, what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what} needs a model, and model=None .* `model` .*diversity, .*random"):
        selector.select(ROWS)
    with pytest.raises(ConfigError, match="compute_losses got model=None; give `model`"):
        selector.compute_losses(ROWS, None)


def test_all_are_kept_when_there_are_no_more(caplog: pytest.LogCaptureFixture) -> None:
    for size in (40, 41):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert CoresetSelector("hybrid", size).select(ROWS, Unasked()) == ROWS
        assert caplog.messages == [f"coreset: {size} of 40 samples are asked for; all are kept as they are"]


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(DataError, match="no samples to choose from"):
        CoresetSelector("random", 5).select([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "hybird"}, "unknown coreset strategy 'hybird'; did you mean 'hybrid'"),
        ({"target_size": 0}, "target_size=0: expected a whole number from 1 up"),
        ({"target_size": 2.5}, "target_size=2.5: expected"),
        ({"target_size": True}, "target_size=True: expected"),
        ({"loss_ratio": 1.5}, "loss_ratio=1.5: expected a number from 0 to 1"),
        ({"loss_ratio": None}, "loss_ratio=None: expected"),
        ({"loss_ratio": float("nan")}, "loss_ratio=nan: expected"),
        ({"seed": -1}, "seed=-1: expected"),
        ({"hybrid_mode": "both"}, "hybrid_mode='both': expected split or product"),
        ({"diversity_method": "x"}, "diversity_method='x': expected facility_location or kcenter"),
        ({"hybrid_mode": "product", "diversity_method": "kcenter"}, "which k-center cannot"),
        ({"loss_band": (0.9, 0.1)}, r"loss_band=\(0.9, 0.1\): expected two quantiles"),
        ({"loss_band": (5, 95)}, "expected two quantiles"),
        ({"loss_band": 0.9}, "expected two quantiles"),
        ({"ifd_band": (0, 2)}, r"ifd_band=\(0, 2\): expected two quantiles"),
        ({"min_response_tokens": -1}, "min_response_tokens=-1: expected a whole number"),
        ({"near_duplicates": 0}, "near_duplicates=0: expected a number above 0 and up to 1"),
        ({"task_quota": 1.5}, "task_quota=1.5: expected a number above 0 and up to 1"),
        ({"features": "tfidf"}, "features='tfidf': expected text, model, sentence-transformers:NAME or an array"),
        ({"features": "sentence-transformers:"}, "expected text, model"),
        ({"strategy": "rds"}, "strategy 'rds' and `wanted`"),
        ({"strategy": "rds", "wanted": []}, "strategy 'rds' and `wanted`"),
        ({"wanted": ["x"]}, "strategy 'rds' and `wanted`"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"max_length": 0}, "max_length=0: expected"),
    ],
)
def test_a_setting_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CoresetSelector(**options)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"CoresetSelector: target_size=0: .*; seed='x': .*; task_quota=0: "):
        CoresetSelector(target_size=0, seed="x", task_quota=0)  # type: ignore[arg-type]


def test_a_seed_changes_what_is_drawn() -> None:
    draws = {tuple(CoresetSelector("random", 5, seed=seed).select_indices(ROWS)) for seed in range(5)}
    assert len(draws) == 5
    strata = {tuple(CoresetSelector("ccs", 9, seed=seed).select_indices(ROWS, Told())) for seed in range(5)}
    assert len(strata) > 1


def test_settings_may_be_numbers_of_numpy() -> None:
    selector = CoresetSelector("random", np.int64(3), np.float32(0.5), seed=np.int32(1))  # type: ignore[arg-type]
    assert len(selector.select(ROWS)) == 3


def test_a_task_takes_no_more_than_its_quota() -> None:
    for strategy in ("random", "loss_topk", "diversity", "hybrid", "ccs", "kcenter"):
        selector = CoresetSelector(strategy, 20, task_quota=0.55)
        selected = selector.select(ROWS, Told())
        counts = Counter(sample["metadata"]["family"] for sample in selected)
        assert sum(counts.values()) == 20 and max(counts.values()) <= 11, strategy
    with pytest.raises(ConfigError, match=r"task_quota=0\.3: at most 6 of each of 2 tasks are 12 rows"):
        CoresetSelector("random", 20, task_quota=0.3).select(ROWS)


def test_hybrid_product_covers_what_is_hard() -> None:
    samples = [row(i, loss=5.0 if i >= 30 else 0.1) for i in range(40)]
    options: dict[str, Any] = {"features": TURNED, "hybrid_mode": "product"}
    hard = CoresetSelector("hybrid", 4, **options).select_indices(samples, Told())
    even = CoresetSelector("facility_location", 4, features=TURNED).select_indices(samples)
    assert sum(i >= 30 for i in hard) > sum(i >= 30 for i in even)


def test_the_method_of_diversity() -> None:
    for named, method in (("facility_location", "kcenter"), ("kcenter", "facility_location")):
        other: dict[str, Any] = {"features": TURNED, "diversity_method": method}
        by_name = CoresetSelector(named, 5, **other).select_indices(ROWS)
        by_method = CoresetSelector("diversity", 5, **{**other, "diversity_method": named}).select_indices(ROWS)
        assert by_name == by_method != CoresetSelector("diversity", 5, **other).select_indices(ROWS)


def test_rds_finds_rows_like_those_wanted() -> None:
    wanted = [ROWS[7], TaskSample("any", ROWS[30])]
    assert CoresetSelector("rds", 2, wanted=wanted).select_indices(ROWS) == [7, 30]
    selector = CoresetSelector("rds", 3, wanted=TURNED[[9, 20]], features=TURNED)
    assert selector.select_indices(ROWS)[:2] == [9, 20]
    assert selector.last is not None and selector.last.wanted is not None and selector.last.wanted.shape == (2, 2)


def test_every_form_of_sample_can_be_chosen_from() -> None:
    chat = {"messages": [{"role": "user", "content": "Buy tea."}, {"role": "assistant", "content": "done"}]}
    pool: list[Any] = [
        chat, ROWS[0], TaskSample("a", chat), {"prompt": "p", "completion": "c"}, {"text": "words"}, "words only",
    ]  # fmt: skip
    for strategy in ("random", "diversity", "kcenter"):
        selected = CoresetSelector(strategy, 5).select(pool)
        assert len(selected) == 5 and all(any(one is other for other in pool) for one in selected)
    losses = CoresetSelector(tokenizer=tiny_tokenizer()).compute_losses(pool, tiny_model())
    assert len(losses) == 6 and losses[0] == pytest.approx(losses[2]) and all(0 < loss < 20 for loss in losses)


def test_a_sample_that_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"sample 2: expected a row with messages"):
        CoresetSelector("diversity", 2).select(["a", "b", {"x": 1}])


def test_losses_that_are_no_numbers_are_refused() -> None:
    samples = [row(i, loss=float("nan") if i == 3 else 1.0) for i in range(6)]
    with pytest.raises((ValueError, RuntimeError), match="3"):
        CoresetSelector("loss_topk", 2).select(samples, Told())


def test_with_a_model() -> None:
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer()}
    model = tiny_model()
    told = score_samples(ROWS, model, tokenizer=tiny_tokenizer(), alone=True, features=True)
    assert told.alone is not None and told.features is not None
    order = sorted(range(40), key=lambda i: (-told.losses[i], i))
    assert CoresetSelector("loss_topk", 5, **options).select_indices(ROWS, model) == order[:5]

    ifd = CoresetSelector("ifd", 5, ifd_band=(0.1, 0.9), **options)
    ratio = np.exp(told.losses - told.alone)
    low, high = np.quantile(ratio, [0.1, 0.9])
    may = [i for i in np.argsort(-ratio, kind="stable") if low <= ratio[i] <= high and ratio[i] < 1]
    if len(may) >= 5:
        assert ifd.select_indices(ROWS, model) == may[:5]
    else:
        with pytest.raises(ConfigError, match="ifd of at least 1"):
            ifd.select(ROWS, model)

    within = CoresetSelector("ifd_diversity", 5, **options).select_indices(ROWS, model)
    assert within == CoresetSelector("diversity", 5, ifd_band=(0, 0.9), **options).select_indices(ROWS, model)
    assert all(ratio[i] <= np.quantile(ratio, 0.9) for i in within)

    by_model = CoresetSelector("diversity", 5, features="model", **options)
    apart = told.features - told.features.mean(axis=0)  # FL goes by directions alone
    by_array = CoresetSelector("diversity", 5, features=apart)
    assert by_model.select_indices(ROWS, model) == by_array.select_indices(ROWS)
    wanted = CoresetSelector("rds", 2, features="model", wanted=[ROWS[31], ROWS[2]], **options)
    assert wanted.select_indices(ROWS, model) == [31, 2]


def test_what_is_recommended() -> None:
    model, options = tiny_model(), {"tokenizer": tiny_tokenizer(), "features": TURNED}
    selector = CoresetSelector("diversity", 8, ifd_band=(0, 0.8), **options)
    picked = selector.select_indices(ROWS, model)
    told = score_samples(ROWS, model, tokenizer=tiny_tokenizer(), alone=True)
    assert told.alone is not None
    may = within_band(np.exp(told.losses - told.alone), (0, 0.8))
    assert selector.last is not None and selector.last.dropped == {"ifd_band": 40 - may.sum()}
    assert picked == diverse(TURNED, 8, np.flatnonzero(may))


def test_a_model_by_its_path(tmp_path: Any) -> None:
    folder = save_tiny(tmp_path / "model")
    by_path = CoresetSelector("hybrid", 6).select_indices(ROWS, str(folder))
    assert by_path == CoresetSelector("hybrid", 6, tokenizer=tiny_tokenizer()).select_indices(ROWS, tiny_model())


def test_token_rows_give_what_samples_give() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    samples: list[Any] = [
        {"messages": [{"role": "user", "content": s["instruction"]}, {"role": "assistant", "content": s["output"]}]}
        for s in ROWS
    ]
    rows = [render(sample, tokenizer).row() for sample in samples]
    for options in (
        {"strategy": "hybrid", "loss_band": (0.1, 0.9)},
        {"strategy": "loss_topk", "min_response_tokens": 3},
        {"strategy": "diversity", "features": "model"},
        {"strategy": "random"},
    ):
        selector = CoresetSelector(target_size=9, tokenizer=tokenizer, **options)  # type: ignore[arg-type]
        by_rows = selector.select_rows(rows, samples, model, tokenizer.pad_token_id)
        assert by_rows == selector.select_indices(samples, model)
        assert by_rows[:4] == selector.select_rows(rows, samples, model, tokenizer.pad_token_id, size=9)[:4]
    assert len(CoresetSelector("random", 9).select_rows(rows, samples, None, 0, size=3)) == 3
    with pytest.raises(ConfigError, match="39 rows and 40 samples"):
        CoresetSelector("random", 9).select_rows(rows[1:], samples, None, 0)


@given(st.integers(2, 40), st.integers(1, 45), st.floats(0, 1), st.sampled_from(sorted(STRATEGIES)))
@settings(deadline=None, max_examples=50)
def test_the_size_is_exact_whatever_the_settings(n: int, size: int, ratio: float, strategy: str) -> None:
    if STRATEGIES[strategy].alone:  # needs more than `sample_losses` tells
        return
    wanted = ROWS[:2] if strategy == "rds" else None
    selector = CoresetSelector(strategy, size, ratio, wanted=wanted, loss_band=(0, 1))
    picked = selector.select_indices(ROWS[:n], Told())
    assert len(picked) == min(n, size) == len(set(picked)) and set(picked) <= set(range(n))
    assert picked == selector.select_indices(ROWS[:n], Told())


def test_an_error_of_a_wanted_row_is_about_that_row() -> None:
    selector = CoresetSelector("rds", 1, features="model", wanted=[{"text": ""}], tokenizer=tiny_tokenizer())
    with pytest.raises(DataError, match=r"^wanted 0: "):
        selector.select(["a b", "c d"], tiny_model())
