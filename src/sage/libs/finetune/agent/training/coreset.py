"""The coreset of a run: which of its rendered rows are trained on, decided once and written down.

Selection comes after rendering and before the adapter: what is scored is what would be trained, a row that does not
fit is never chosen, and the model that scores is the base model as it was loaded (or another one, `coreset_scorer`).
With `truncation: windows` each window of a long conversation is a row: it has its own loss and counts as one. Another
model has another tokenizer and scores whole conversations, so their windows share a loss.

The numbers of the chosen rows go to `coreset.json` before the first step. A resumed run reads them there and scores
nothing again; that it still means the same rows shows in the hash of the samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.data import TokenRows, samples_hash, trained_tokens

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 1000
"""Rows of a coreset when `coreset_target_size` is not given; that of `CoresetSelector`."""


@dataclass(frozen=True)
class Coreset:
    """Rows chosen from all that could be trained on.

    Attributes:
        strategy: How they were chosen.
        scorer: The model whose losses were looked at, None when the strategy looks at none.
        rows: Their numbers, in the order of choice.
        of: Rows there were.
        seconds: What scoring and choosing took.
        stand_in: Whether they were drawn at random in place of what `strategy` would choose (dry runs score nothing).
    """

    strategy: str
    scorer: str | None
    rows: Sequence[int]
    of: int
    seconds: float
    stand_in: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as in `coreset.json`."""
        return {
            "strategy": self.strategy, "scorer": self.scorer, "size": len(self.rows), "of": self.of,
            "seconds": round(self.seconds, 3), "rows": list(self.rows),
        }  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Coreset:
        """From `coreset.json`.

        Raises:
            DataError: when it is missing or damaged.
        """
        found = jsonl.read_json(path)
        try:
            rows, of = found["rows"], found["of"]
            if len(set(rows)) < len(rows) or not all(isinstance(row, int) and 0 <= row < of for row in rows):
                raise TypeError
            return cls(found["strategy"], found["scorer"], rows, of, found["seconds"])
        except (KeyError, TypeError):
            raise DataError(f"{path}: does not say which rows were selected; restore it, or start a new run") from None


def needs_model(strategy: str) -> bool:
    """Whether a strategy looks at losses.

    Example:
        >>> needs_model("hybrid"), needs_model("diversity")
        (True, False)
    """
    # It brings SciPy along, which a run without a coreset need not wait for.
    from sage.libs.finetune.agent.selection.coreset import STRATEGIES

    return STRATEGIES[strategy].losses


def select(config: AgentSFTConfig, data: TokenRows, loaded: LoadedModel, progress: Progress = silent) -> Coreset:
    """Choose the rows to train on; of several processes the first one does, and tells the others.

    Args:
        config: Of which the `coreset_` settings, `seed`, `max_seq_length` and `eval_batch_size` are read.
        data: All rows that could be trained on.
        loaded: The base model.
        progress: Told while rows are scored.

    Raises:
        ModelError: when `coreset_scorer` cannot be loaded.

    Example:
        >>> coreset = select(config, data, loaded)  # doctest: +SKIP
        >>> data = reduced(data, coreset)  # doctest: +SKIP
    """

    def choose() -> Coreset:
        begin = time.perf_counter()
        scorer = (config.coreset_scorer or config.base_model) if needs_model(config.coreset_strategy) else None
        if config.coreset_scorer is not None and scorer is None:
            logger.warning("coreset_scorer: no effect, since %s looks at no losses", config.coreset_strategy)
        if scorer is not None and config.coreset_scorer is not None:
            selector = _selector(config, config.coreset_strategy, progress)
            rows = selector.select_indices(data.samples, config.coreset_scorer)
        else:
            selector = _selector(config, config.coreset_strategy, progress, loaded.tokenizer)
            rows = selector.select_rows(data.rows, data.samples, loaded.model, loaded.tokenizer.pad_token_id or 0)
        return Coreset(config.coreset_strategy, scorer, rows, len(data.rows), time.perf_counter() - begin)

    return processes.first_decides(choose)


def without_model(config: AgentSFTConfig, data: TokenRows) -> Coreset:
    """The coreset of a dry run: the very one where the strategy looks at no losses, else as many rows at random."""
    begin, stand_in = time.perf_counter(), needs_model(config.coreset_strategy)
    selector = _selector(config, "random" if stand_in else config.coreset_strategy, silent)
    rows = selector.select_indices(data.samples)
    seconds = time.perf_counter() - begin
    return Coreset(config.coreset_strategy, None, rows, len(data.rows), seconds, stand_in)


def reduced(data: TokenRows, coreset: Coreset) -> TokenRows:
    """The rows of the coreset in the order of the data set; the manifest counts them alone and says what they are of.

    Raises:
        ConfigError: when the coreset was chosen from another number of rows.
    """
    if coreset.of != len(data.rows):
        raise ConfigError(
            f"the training rows have changed since the run began: its coreset was selected from {coreset.of} rows and "
            f"there are {len(data.rows)} now; restore them, or start a new run"
        )
    numbers = sorted(coreset.rows)
    rows, samples = [data.rows[number] for number in numbers], [data.samples[number] for number in numbers]
    digest = samples_hash(samples)
    entry = {name: value for name, value in coreset.to_dict().items() if name != "rows"}
    manifest = {
        **data.manifest,
        "rows": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "tokens_trained": sum(map(trained_tokens, rows)),
        "longest_row": max(len(row["input_ids"]) for row in rows),
        "sha256": digest,
        "coreset": {**entry, "sha256": digest, **({"stand_in": "random"} if coreset.stand_in else {})},
    }
    return TokenRows(rows, samples, manifest, [data.places[number] for number in numbers])


def in_words(manifest: dict[str, Any]) -> str:
    """What a manifest says about its coreset, as a line for tables and cards; "" without one.

    Example:
        >>> entry = {"strategy": "hybrid", "scorer": "m", "size": 100, "of": 1000, "seconds": 12.3}
        >>> in_words({"coreset": entry})
        '100 of 1,000 rows (10.0%), selected by hybrid with the losses of m in 12.3 s'
    """
    entry = manifest.get("coreset")
    if entry is None:
        return ""
    if entry["size"] == entry["of"]:
        return f"all {entry['of']:,} rows, which are no more than a coreset was to have"
    share = f"{entry['size']:,} of {entry['of']:,} rows ({entry['size'] / entry['of']:.1%})"
    if entry.get("stand_in"):
        return f"{share} at random, which stand here for those that {entry['strategy']} will select by their losses"
    by = f"{entry['strategy']} with the losses of {entry['scorer']}" if entry["scorer"] else entry["strategy"]
    return f"{share}, selected by {by} in {entry['seconds']:.1f} s"


def _selector(config: AgentSFTConfig, strategy: str, progress: Progress, tokenizer: Any = None) -> Any:
    from sage.libs.finetune.agent.selection.coreset import CoresetSelector

    return CoresetSelector(
        strategy, config.coreset_target_size or DEFAULT_SIZE, seed=config.seed, max_length=config.max_seq_length,
        batch_size=config.eval_batch_size, tokenizer=tokenizer, progress=progress,
    )  # fmt: skip
