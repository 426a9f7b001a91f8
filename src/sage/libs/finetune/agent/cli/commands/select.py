"""`select`: the rows of a pool that are worth training on, and how they differ from the rest."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.episodes import output_faults
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from sage.libs.finetune.agent.reporting.selection import Part
    from sage.libs.finetune.agent.selection.coreset import CoresetSelector, Selection
    from sage.libs.finetune.agent.types import Sample

Size = int | float


@dataclass
class SelectConfig(Config):
    """Which rows of what, and how they are judged."""

    input: str = option(help="file, folder, or reference such as agent_sft:train", positional=True)
    output: Path = option(help="JSONL file of the chosen rows, the first choice first; a PNG beside it", short="o")
    strategy: str = option(
        "hybrid", "loss_topk, diversity, hybrid, random, ifd, ifd_diversity, ccs, facility_location, kcenter or rds"
    )
    size: int | float | str = option(1000, "rows to choose, or a share of the pool such as 10% or 0.1")
    model: str | None = option(
        None, "model id, folder, adapter, or smollm2-135m-instruct: its losses are the measure", aliases=("base_model",)
    )
    loss_ratio: float = option(0.6, "hybrid: share of the rows chosen by loss", low=0.0, high=1.0)
    hybrid_mode: Literal["split", "product"] = option(
        "split", "hybrid: first by loss, then by diversity; or both at once, rows weighted by loss"
    )
    diversity_method: Literal["facility_location", "kcenter"] = option(
        "facility_location", "diversity: every row near a chosen one, or chosen ones far apart"
    )
    loss_band: str | None = option(None, "only rows between these quantiles of the loss, such as 0.05,0.9")
    ifd_band: str | None = option(
        None, "only rows between these quantiles of the instruction-following difficulty, such as 0,0.9"
    )
    min_response_tokens: int = option(0, "only rows with as many supervised tokens", low=0)
    near_duplicates: float | None = option(
        None, "leave out rows with an earlier one as similar as this (cosine), such as 0.95", above=0.0, high=1.0
    )
    task_quota: float | None = option(None, "largest share of the choice that one task may take", above=0.0, high=1.0)
    wanted: Path | None = option(None, "rds: file of example rows; what is like them is chosen")
    features: str = option("text", "what similarity is of: text, model, or sentence-transformers:NAME")
    max_seq_length: int = option(
        2048, "longest row in tokens; longer ones lose whole exchanges, oldest first", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    batch_size: int = option(32, "rows scored at once", low=1)
    cache: Path | None = option(None, "folder that keeps scores; the same rows and model are not scored again")
    executor: Literal["local", "ray"] = option("local", "where rows are scored")
    workers: int | None = option(None, "ray: workers that score", low=1)
    seed: int = option(0, "fixes whatever is drawn", low=0, high=2**32 - 1)

    def conflicts(self) -> list[str]:
        """The input is neither overwritten nor added to; size and band are numbers that make sense."""
        faults = output_faults(Path(self.input), self.output)
        if self.output.suffix == ".png":
            faults.append("'output': the picture would overwrite the rows; give another ending, such as .jsonl")
        if self.wanted is not None and self.wanted.resolve() == self.output.resolve():
            faults.append("'output' is the file of 'wanted'; give another name")
        for read in (_size, lambda config: _band("loss_band", config), lambda config: _band("ifd_band", config)):
            try:
                read(self)
            except ConfigError as error:
                faults.append(str(error))
        return faults


def run(config: SelectConfig, progress: Progress) -> Report:
    """Choose, write the rows, and draw them among the others.

    Raises:
        ConfigError: for an unknown strategy, one that needs a model without one, or more rows than there are.
        DataError: for rows that cannot be read, or an output that cannot be written.
        ModelError: for a model that cannot be used.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers
    from sage.libs.finetune.agent.jsonl import check_output, write_jsonl
    from sage.libs.finetune.agent.sources.resolve import load_samples, located_samples

    picture = config.output.with_suffix(".png")
    for path in (config.output, picture):
        check_output(path)
    _require_model(config)
    quiet_transformers()
    begin = time.perf_counter()
    places, samples = zip(*located_samples(config.input), strict=True)
    wanted = load_samples(config.wanted) if config.wanted else None
    selector = _selector(config, _rows_wanted(config, len(samples)), wanted, progress)
    selection = _selection(selector, config, samples, places)
    write_jsonl(config.output, (samples[index] for index in selection.indices))
    breakdown = _breakdown(samples, selection)
    _draw(picture, config, samples, selection)
    return _report(config, breakdown, selection, picture, time.perf_counter() - begin)


def _size(config: SelectConfig) -> Size:
    """A number of rows as an int, a share of the pool as a float."""
    size, text = config.size, str(config.size).strip()
    try:
        if isinstance(size, str):
            size = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        size = math.nan
    if (isinstance(size, int) and size >= 1) or (isinstance(size, float) and 0 < size < 1):
        return size
    raise ConfigError(f"'size': expected a number of rows, or a share such as 10% or 0.1; found '{text}'")


def _band(name: str, config: SelectConfig) -> tuple[float, float] | None:
    given: str | None = getattr(config, name)
    if given is None:
        return None
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise ConfigError(f"'{name}': expected two quantiles from 0 to 1, such as 0.05,0.9; found '{given}'")
    return low, high


def _rows_wanted(config: SelectConfig, pool: int) -> int:
    size = _size(config)
    rows = size if isinstance(size, int) else max(1, round(size * pool))
    if rows > pool:
        raise ConfigError(
            f"'size': {rows} rows cannot be chosen from the {pool} in {config.input}; give at most {pool}, or a share "
            "such as 10%"
        )
    return rows


def _require_model(config: SelectConfig) -> None:
    """Said before a million rows are read."""
    from sage.libs.finetune.agent.selection.coreset import STRATEGIES

    strategy = STRATEGIES[config.strategy]
    if config.model is not None:
        return
    settings = {
        f"strategy {config.strategy}": strategy.losses,
        "loss_band": config.loss_band is not None,
        "ifd_band": config.ifd_band is not None,
        "min_response_tokens": config.min_response_tokens > 0,
        "features model": config.features == "model",
    }
    if asked := [name for name, needed in settings.items() if needed]:
        without = ", ".join(name for name in STRATEGIES if not STRATEGIES[name].losses)
        raise ConfigError(
            f"{' and '.join(asked)}: a model has to read the rows; give --model, or take one of {without}"
        )


def _selector(config: SelectConfig, rows: int, wanted: list[Sample] | None, progress: Progress) -> CoresetSelector:
    from sage.libs.finetune.agent.selection.coreset import CoresetSelector

    return CoresetSelector(
        config.strategy,
        rows,
        config.loss_ratio,
        seed=config.seed,
        hybrid_mode=config.hybrid_mode,
        diversity_method=config.diversity_method,
        loss_band=_band("loss_band", config),
        ifd_band=_band("ifd_band", config),
        min_response_tokens=config.min_response_tokens,
        near_duplicates=config.near_duplicates,
        task_quota=config.task_quota,
        wanted=wanted,
        features=config.features,
        max_length=config.max_seq_length,
        batch_size=config.batch_size,
        cache=config.cache,
        executor=config.executor,
        workers=config.workers,
        progress=progress,
    )


def _selection(
    selector: CoresetSelector, config: SelectConfig, samples: Sequence[Sample], places: Sequence[str]
) -> Selection:
    """The choice; an error about a sample names its line instead of its number."""
    try:
        selector.select_indices(samples, config.model)
    except (DataError, ModelError) as error:
        number = re.match(r"sample (\d+)", str(error))
        if number is None:
            raise
        raise type(error)(f"{places[int(number[1])]}{str(error)[number.end() :]}") from None
    assert selector.last is not None
    return selector.last


def _breakdown(samples: Sequence[Sample], selection: Selection) -> dict[str, list[Part]]:
    """Parts of the pool by task, length and, where there are any, loss."""
    import numpy as np

    from sage.libs.finetune.agent.reporting.selection import parts_by_task, parts_by_value
    from sage.libs.finetune.agent.selection.texts import sample_text

    scores, chosen = selection.scores, selection.indices
    found = {"task": parts_by_task(selection.tasks, chosen)}
    if scores is None:
        characters = [len(sample_text(sample, f"row {row}").response) for row, sample in enumerate(samples, start=1)]
        found["characters of reply"] = parts_by_value(np.array(characters), chosen)
    else:
        found["supervised tokens"] = parts_by_value(scores.tokens, chosen)
        found["loss, nats a token"] = parts_by_value(scores.losses, chosen)
    return found


def _draw(picture: Path, config: SelectConfig, samples: Sequence[Sample], selection: Selection) -> None:
    import numpy as np

    from sage.libs.finetune.agent.reporting.selection import draw_selection, drawn_rows

    chosen = selection.indices
    rows = drawn_rows(len(samples), chosen, config.seed)
    title = f"{len(chosen):,} of {len(samples):,} rows of {Path(config.input).name}, by {config.strategy}"
    facts = f"{len(rows):,} rows drawn" if len(rows) < len(samples) else ""
    tasks = [selection.tasks[row] for row in rows]
    features = _features_of(rows, samples, selection)
    draw_selection(picture, features, np.isin(rows, chosen), tasks, title, facts)


def _features_of(rows: list[int], samples: Sequence[Sample], selection: Selection) -> np.ndarray:
    """What the selection compared; text features of these rows where it compared none."""
    if selection.features is not None:
        return selection.features[rows]
    from sage.libs.finetune.agent.selection.features import text_features
    from sage.libs.finetune.agent.selection.texts import sample_text

    return text_features([sample_text(samples[row], f"row {row + 1}").text for row in rows])


def _report(
    config: SelectConfig, breakdown: dict[str, list[Part]], selection: Selection, picture: Path, seconds: float
) -> Report:
    from sage.libs.finetune.agent.reporting.selection import selection_table

    pool, chosen = len(selection.tasks), selection.indices
    data: dict[str, Any] = {
        "rows": pool,
        "chosen": len(chosen),
        "strategy": config.strategy,
        "model": config.model,
        "seed": config.seed,
        "dropped": selection.dropped,
        "by": {name: [vars(part) for part in parts] for name, parts in breakdown.items()},
        "indices": chosen,
        "seconds": round(seconds, 2),
        "output": str(config.output),
        "picture": str(picture),
    }
    notes = [
        f"{count:,} {'row' if count == 1 else 'rows'} could not be chosen: {guard}"
        for guard, count in selection.dropped.items()
        if count
    ]
    notes.append(f"{config.output} has the rows, the first choice first; {picture} shows where they lie in the pool")
    train = ["sage-finetune", "train", "--base-model", config.model or "MODEL", "--train-data", str(config.output)]
    notes.append(f"next: {shlex.join(train)}")
    return Report(data, [selection_table(breakdown, pool, len(chosen))], notes)


COMMAND = Command(
    name="select",
    help="Choose the rows of a pool that are worth training on.\n\nBy how hard they are for a model (--model), by how "
    "much of the pool they cover, or both (docs/selection.md).",
    example="sage-finetune select rows.jsonl --size 1000 --model smollm2-135m-instruct -o chosen.jsonl",
    config=SelectConfig,
    run=run,
)
