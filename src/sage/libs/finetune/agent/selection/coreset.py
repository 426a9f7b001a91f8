"""Choosing which samples to train on: one door for all strategies.

A selection goes in two steps. Guards drop rows that no strategy should take: too short a response, a score outside
its band, near-duplicates. Then the strategy chooses, within the quota of each task if there is one. What was known on
the way (losses, features, tasks, what the guards dropped) stays in `last`, for tables and pictures.

Two deviations. `hybrid` covers *given* the rows chosen by loss, where "60% loss and 40% diversity" is often two lists
side by side that share rows. `diversity` is facility location: k-center, the usual choice, takes the outliers first,
and on noisy pools covers worse than chance.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.selection import strategies
from sage.libs.finetune.agent.selection.by_name import STRATEGIES, Manner, Selection
from sage.libs.finetune.agent.selection.guards import Band, Guards
from sage.libs.finetune.agent.selection.sample_features import (
    ENCODER,
    centred,
    check_distances,
    distances,
    given_features,
    sample_features,
)
from sage.libs.finetune.agent.selection.texts import sample_text, task_of
from sage.libs.finetune.agent.tokenization.render import IGNORED

if TYPE_CHECKING:
    from sage.libs.finetune.agent.selection.scoring import SampleScores

__all__ = ["STRATEGIES", "CoresetSelector", "Selection", "StrategyName"]

logger = logging.getLogger(__name__)

StrategyName = Literal[
    "loss_topk", "diversity", "hybrid", "random", "ifd", "ifd_diversity", "ccs", "facility_location", "kcenter", "rds"
]
_METHODS = ("facility_location", "kcenter")


class _ScoresOf(Protocol):
    def __call__(self, *, alone: bool, features: bool) -> SampleScores: ...


class CoresetSelector:
    """Chooses the samples that are worth training on.

    For 10 to 30% of a pool that is imbalanced, repeats itself and has broken rows in it we recommend `ifd_diversity`:
    coverage of what is left when the outliers of difficulty are cut, with a `task_quota` where one task outweighs all
    others. It takes the fewest flawed rows; that short trainings end better for it than with random rows is not shown
    (docs/selection.md). Coverage passes over near-duplicates by itself. Dropping them before (`near_duplicates`) is
    for strategies that go by a score alone: here it takes the weight from what is often said, and so sound, and broken
    rows come up.

    Args:
        strategy: `loss_topk` (highest loss), `diversity` (coverage of features), `hybrid` (loss, then coverage given
            what is chosen), `random`, `ifd` (highest instruction-following difficulty below 1), `ifd_diversity`
            (`diversity` within `ifd_band`), `ccs` (evenly over strata of the loss), `facility_location` and `kcenter`
            (diversity by that method), `rds` (most like the wanted examples). `loss_topk`, `hybrid`, `ifd`,
            `ifd_diversity` and `ccs` need a model. See `selection.strategies`.
        target_size: How many samples.
        loss_ratio: `hybrid`: share of the samples that is chosen by loss.
        seed: For what is drawn: `random`, `ccs`, and the sample and cells of large pools. Features do not depend on it.
        hybrid_mode: `split` as above; `product` covers all rows, each of which counts by its loss.
        diversity_method: `facility_location` or `kcenter`, for `diversity` and `hybrid`.
        loss_band: Keep rows whose loss lies between these two quantiles of the pool; needs a model. None keeps all;
            with `ccs` it stands for (0, 0.9), since the hardest have to be cut. A short answer has a high loss too.
        ifd_band: The same for the IFD: what the prompt does not explain is cut, such as gibberish; needs a model. With
            `ifd_diversity` None stands for (0, 0.9).
        min_response_tokens: Drop responses of fewer trained tokens; needs a model or `tokenizer`.
        near_duplicates: Drop rows whose features have at least this cosine with an earlier row that passed the guards
            so far; None drops none.
        task_quota: Largest share of `target_size` that one task may take; samples without a task are one task.
        wanted: `rds`: samples like those the model shall become good at; an array when `features` is one.
        features: `text` (hashed words and character n-grams), `model` (hidden states of the pass that gives the
            losses, less their mean; needs a model), `sentence-transformers:NAME` (an encoder), or an array [n, d].
        tokenizer: Of an HF model that is given as an object; with `select_rows` and `ifd`, the one of the rows.
        max_length: Most tokens of a row; oldest exchanges of a longer one are left out.
        batch_size: Rows that the model reads at once.
        cache: Folder of losses computed before; see `selection.scoring`.
        executor: Where losses are computed: `local` or `ray`.
        workers: Ray workers, None for as many as there is room for.
        progress: Told how far scoring is.

    Attributes:
        last: The latest `Selection`, None before the first.

    Raises:
        ConfigError: for an unknown name or a value out of range.

    Example:
        >>> rows = [{"instruction": f"Say {word}.", "output": word} for word in ("tea", "tea", "jam", "ham")]
        >>> selector = CoresetSelector("diversity", target_size=2, near_duplicates=0.99)
        >>> len(selector.select(rows)), selector.last.dropped
        (2, {'near_duplicates': 1})
    """

    def __init__(
        self,
        strategy: StrategyName | str = "hybrid",
        target_size: int = 1000,
        loss_ratio: float = 0.6,
        *,
        seed: int = 0,
        hybrid_mode: Literal["split", "product"] = "split",
        diversity_method: strategies.Method = "facility_location",
        loss_band: Band | None = None,
        ifd_band: Band | None = None,
        min_response_tokens: int = 0,
        near_duplicates: float | None = None,
        task_quota: float | None = None,
        wanted: Sequence[Any] | np.ndarray | None = None,
        features: str | np.ndarray = "text",
        tokenizer: Any = None,
        max_length: int = 2048,
        batch_size: int = 32,
        cache: str | Path | None = None,
        executor: str = "local",
        workers: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self._needs = STRATEGIES[strategy]
        self.strategy = strategy
        self.target_size = target_size
        self.loss_ratio = loss_ratio
        self.seed = seed
        self.hybrid_mode = hybrid_mode
        self.diversity_method = diversity_method
        self.loss_band = (0.0, 0.9) if strategy == "ccs" and loss_band is None else loss_band
        self.ifd_band = (0.0, 0.9) if strategy == "ifd_diversity" and ifd_band is None else ifd_band
        self.min_response_tokens = min_response_tokens
        self.near_duplicates = near_duplicates
        self.task_quota = task_quota
        self.wanted = wanted
        self.features = features
        self.tokenizer = tokenizer
        self.last: Selection | None = None
        self._batches: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        self._reading: dict[str, Any] = {
            "tokenizer": tokenizer, "max_length": max_length, "cache": cache, "executor": executor, "workers": workers,
        }  # fmt: skip
        if faults := self._faults():
            raise ConfigError(f"CoresetSelector: {'; '.join(faults)}")

    def select(self, samples: Sequence[Any], model: Any = None) -> list[Any]:
        """The chosen samples, the very objects, in the order of choice; all else as `select_indices`.

        Example:
            >>> CoresetSelector("random", target_size=2).select(["tea", "jam", "ham"])
            ['ham', 'tea']
        """
        return [samples[index] for index in self.select_indices(samples, model)]

    def select_indices(self, samples: Sequence[Any], model: Any = None) -> list[int]:
        """The numbers of the chosen samples, in the order of choice.

        Args:
            samples: Chat rows, Alpaca rows, prompts with completions, `TaskSample`s, texts; see `selection.texts`.
            model: For losses: an `AgentSFTTrainer`, a path or hub id, an HF model (with `tokenizer`), or an object
                with `sample_losses(samples) -> list[float]`.

        Returns:
            Exactly `target_size` of them, or all in their order, with a warning, when there are no more.

        Raises:
            ConfigError: when a model is needed and missing, or too few rows pass the guards.
            DataError: when there are no samples, or one cannot be read or ranked; names it.
        """
        scores_of = partial(self._scores_of, samples, model)
        count_tokens = None if self.tokenizer is None else partial(_response_tokens, samples, self.tokenizer)
        return self._select(samples, self.target_size, model, scores_of, count_tokens)

    def select_rows(
        self, rows: Sequence[Any], samples: Sequence[Any], model: Any, pad_id: int, size: int | None = None
    ) -> list[int]:
        """As `select_indices`, for samples that are token rows already.

        Args:
            rows: Each `input_ids`, `labels`, perhaps `weights`.
            samples: The sample of each row; windows of one sample share it, and with it the features of its text.
            model: An HF model; None where nothing needs one.
            pad_id: The token to pad with.
            size: Takes the place of `target_size`.

        Raises:
            ConfigError, DataError: as `select_indices`.
        """
        if len(rows) != len(samples):
            raise ConfigError(f"select_rows: {len(rows)} rows and {len(samples)} samples; each row needs its sample")

        def scores_of(*, alone: bool, features: bool) -> SampleScores:
            from sage.libs.finetune.agent.selection.scoring import assistant_header, score_rows

            header = assistant_header(self.tokenizer) if alone and self.tokenizer is not None else ()
            return score_rows(model, pad_id, rows, alone=alone, features=features, header=header, **self._batches)

        size = self.target_size if size is None else size
        return self._select(samples, size, model, scores_of, partial(_trained_tokens, rows))

    def compute_losses(self, samples: Sequence[Any], model: Any) -> list[float]:
        """The loss of each sample: mean negative log-likelihood of its response, in nats per token.

        Args:
            samples: As for `select_indices`.
            model: As for `select_indices`.

        Raises:
            ConfigError: when there is no model.
        """
        if model is None:
            raise ConfigError("compute_losses got model=None; give `model`: a trainer, a path or hub id, or a model")
        return [float(loss) for loss in self._scores_of(samples, model, alone=False, features=False).losses]

    def compute_diversity(self, samples: Sequence[Any]) -> np.ndarray:
        """All distances between the features of samples, [n, n] float32: those that diversity goes by.

        With `facility_location` 1 minus the cosine (0 to 2), with `kcenter` the Euclidean distance.

        Raises:
            ConfigError: for more than 20,000 samples, whose matrix would take over 1.6 GB, or features that need a
                model.

        Example:
            >>> CoresetSelector().compute_diversity(["tea for two", "tea for two", "jam"]).shape
            (3, 3)
        """
        if isinstance(self.features, str) and self.features == "model":
            raise ConfigError("compute_diversity has no model to take features from; use features='text' or an array")
        check_distances(len(samples))
        features, _ = self._features_of(samples, None)
        return distances(features, cosine=self._method == "facility_location")

    @property
    def _method(self) -> strategies.Method:
        return self.strategy if self.strategy in _METHODS else self.diversity_method  # type: ignore[return-value]

    def _select(
        self,
        samples: Sequence[Any],
        size: int,
        model: Any,
        scores_of: _ScoresOf,
        count_tokens: Callable[[], np.ndarray] | None,
    ) -> list[int]:
        """The selection, for samples and for token rows alike.

        Args:
            samples: The pool.
            size: How many to choose.
            model: None where nothing needs one.
            scores_of: Asks the model about the pool.
            count_tokens: Gives the tokens of each response; None where only the model knows.
        """
        if not len(samples):
            raise DataError("there are no samples to choose from")
        features = self._needs.features or self.near_duplicates is not None
        from_model = features and isinstance(self.features, str) and self.features == "model"
        asking = {
            f"strategy '{self.strategy}'": self._needs.losses,
            "features 'model'": from_model,
            "loss_band": self.loss_band is not None,
            "ifd_band": self.ifd_band is not None,
            "min_response_tokens": self.min_response_tokens > 0 and count_tokens is None,
        }
        if model is None and any(asking.values()):
            free = ", ".join(name for name in STRATEGIES if not STRATEGIES[name].losses)
            raise ConfigError(
                f"{next(name for name, asks in asking.items() if asks)} needs a model, and model=None was given; pass "
                f"`model` (a trainer, a path or hub id, or a model); strategies that need none: {free}"
            )
        self.last = last = Selection([], [task_of(sample) for sample in samples])
        if size >= len(samples):
            logger.warning("coreset: %d of %d samples are asked for; all are kept as they are", size, len(samples))
            last.indices = list(range(len(samples)))
            return list(last.indices)
        if any(asking.values()):
            last.scores = scores_of(alone=self._needs.alone or self.ifd_band is not None, features=from_model)
        if features:
            last.features, last.wanted = self._features_of(samples, model)
        rows = self._guards().passed(last, size, count_tokens)
        manner = Manner(self.seed, self.loss_ratio, self.hybrid_mode == "product", self._method)
        choose = self._needs.start(last, manner, rows)
        if self.task_quota is None:
            last.indices = choose(size, rows, ())
        else:
            last.indices = strategies.within_quota(choose, size, rows, last.tasks, self.task_quota)
        return list(last.indices)

    def _guards(self) -> Guards:
        below_1 = self.strategy == "ifd"  # from 1 on there is nothing in the prompt that the response follows from
        return Guards(self.min_response_tokens, self.loss_band, self.ifd_band, below_1, self.near_duplicates)

    def _scores_of(self, samples: Sequence[Any], model: Any, *, alone: bool, features: bool) -> SampleScores:
        from sage.libs.finetune.agent.selection.scoring import score_samples  # PyTorch, for those who ask a model

        return score_samples(samples, model, alone=alone, features=features, **self._reading, **self._batches)

    def _features_of(self, samples: Sequence[Any], model: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of the pool, and of the wanted examples if there are any."""
        wanted: Any = () if self.wanted is None else self.wanted
        if not isinstance(self.features, str):
            found, asked = given_features(len(samples), self.features, wanted)
        elif self.features == "model":
            assert self.last is not None and self.last.scores is not None and self.last.scores.features is not None
            try:
                told = self._scores_of(wanted, model, alone=False, features=True).features if len(wanted) else None
            except (DataError, ModelError) as error:  # it numbers what it was given, and these are not the samples
                raise type(error)(re.sub(r"^sample (?=\d)", "wanted ", str(error))) from None
            return centred(self.last.scores.features, told)
        else:
            found, asked = sample_features(samples, wanted, self.features)
        return found, asked if len(wanted) else None

    def _faults(self) -> list[str]:
        """What is wrong with the settings, each as one phrase."""
        whole = "a whole number from {} up".format
        share = "a number above 0 and up to 1"
        named = not isinstance(self.features, str) or self.features in ("text", "model")
        quota, most_alike = self.task_quota, self.near_duplicates
        checks = (
            ("target_size", _is_whole(self.target_size, 1), whole(1)),
            ("loss_ratio", _is_within(self.loss_ratio, 0, 1), "a number from 0 to 1"),
            ("seed", _is_whole(self.seed, 0), whole(0)),
            ("hybrid_mode", self.hybrid_mode in ("split", "product"), "split or product"),
            ("diversity_method", self.diversity_method in _METHODS, " or ".join(_METHODS)),
            ("loss_band", self.loss_band is None or _is_band(self.loss_band), "two quantiles, such as (0.05, 0.85)"),
            ("ifd_band", self.ifd_band is None or _is_band(self.ifd_band), "two quantiles, such as (0, 0.95)"),
            ("min_response_tokens", _is_whole(self.min_response_tokens, 0), whole(0)),
            ("near_duplicates", most_alike is None or (_is_within(most_alike, 0, 1) and most_alike > 0), share),
            ("task_quota", quota is None or (_is_within(quota, 0, 1) and quota > 0), share),
            ("features", named or _is_encoder(self.features), f"text, model, {ENCODER}NAME or an array"),
            ("max_length", _is_whole(self._reading["max_length"], 1), whole(1)),
            ("batch_size", _is_whole(self._batches["batch_size"], 1), whole(1)),
        )
        given = {**vars(self), **self._reading, **self._batches}
        faults = [f"{name}={given[name]!r}: expected {expected}" for name, sound, expected in checks if not sound]
        if self.hybrid_mode == "product" and self._method == "kcenter":
            faults.append("hybrid_mode='product' weighs rows, which k-center cannot; use facility_location")
        if (self.strategy == "rds") != (self.wanted is not None and len(self.wanted) > 0):
            faults.append("strategy 'rds' and `wanted`, samples to be like, go together: give both or neither")
        return faults


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _is_within(value: object, low: float, high: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def _is_band(value: object) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(_is_within(quantile, 0, 1) for quantile in value)
    return pair and value[0] < value[1]  # type: ignore[index]


def _is_encoder(features: object) -> bool:
    return isinstance(features, str) and features.startswith(ENCODER) and features != ENCODER


def _response_tokens(samples: Sequence[Any], tokenizer: Any) -> np.ndarray:
    """[n], tokens of each response as text, without what a chat template adds."""
    texts = [sample_text(sample, f"sample {number}").response for number, sample in enumerate(samples)]
    return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])


def _trained_tokens(rows: Sequence[Any]) -> np.ndarray:
    return np.array([sum(label != IGNORED for label in row["labels"]) for row in rows])
