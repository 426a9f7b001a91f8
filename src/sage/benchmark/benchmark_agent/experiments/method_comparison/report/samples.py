"""What was trained on: a few rows of each method token by token, and where the selected rows lie among all rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import charts
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.figures import legend
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults, MethodRuns
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markup import shut, text
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.reporting.preview import Piece, RowPreview, preview_row, visible
from sage.libs.finetune.agent.reporting.reply_text import valid
from sage.libs.finetune.agent.selection.texts import sample_key, sample_text

if TYPE_CHECKING:
    import numpy as np

_ROWS, _PIECES = 6, 400
_MOST_DOTS = 1500
_DIMENSIONS = 128


def trained_rows(grid: GridResults) -> str:
    """A few rows of each method's first run, the trained tokens coloured; methods with the same rows stand together."""
    methods: dict[str, list[str]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for method in grid.finished:
        shown = _first_rows(_files(grid, method))
        if shown:
            key = json.dumps(shown, sort_keys=True)
            methods.setdefault(key, []).append(method.method_id)
            rows[key] = shown
    if not rows:
        return ""
    from sage.libs.finetune.agent.models.load import load_tokenizer

    model = str(grid.settings.get("base_model", ""))
    try:
        tokenizer, _ = load_tokenizer(model, local_only=True)
    except ModelError as error:
        return f"<p>Not shown: the tokenizer of the base model cannot be loaded here. {text(error)}</p>"
    length = int(grid.settings.get("max_seq_length", 1024))
    parts = [
        "<p>The first rows of each method's first seed, as the model read them.</p>",
        legend([("y", "trained on"), ("", "only read"), ("c", "control token")]),
    ]
    for key, names in methods.items():
        previews = [preview_row(f"row {at}", row, tokenizer, length) for at, row in enumerate(rows[key], 1)]  # type: ignore[arg-type]
        parts.append(shut(", ".join(names), "".join(map(_row, previews))))
    return "".join(parts)


def selection_maps(grid: GridResults) -> str:
    """For each method that selects rows, its first run's choice among all rows."""
    choosing = [method for method in grid.finished if method.settings.get("use_coreset") and _files(grid, method)]
    whole = next(
        (files for method in grid.finished if not _changes_rows(method) and (files := _files(grid, method))), []
    )
    if not choosing or not whole:
        return ""
    rows = [row for file in whole for _, row in jsonl.read_jsonl(file)]
    if len(rows) < 3:
        return ""
    at = _places([sample_text(row, f"row {number}").text for number, row in enumerate(rows)])
    shown = range(0, len(rows), -(-len(rows) // _MOST_DOTS))
    across, up = charts.span_of(at[:, 0].tolist()), charts.span_of(at[:, 1].tolist())
    keys = [sample_key(row) for row in rows]
    cards = []
    for method in choosing:
        chosen = {sample_key(row) for file in _files(grid, method) for _, row in jsonl.read_jsonl(file)}
        groups = [
            ([(float(at[n, 0]), float(at[n, 1])) for n in shown if (keys[n] in chosen) is taken], kind)
            for taken, kind in ((False, "left"), (True, "chosen"))
        ]
        said = f"{method.method_id}: {sum(key in chosen for key in keys):,} of {len(rows):,} rows selected"
        picture = charts.cloud(groups, across, up, f"{said}, as dots among all rows")
        cards.append(f"<figure>{picture}<figcaption>{text(said)}</figcaption></figure>")
    thinned = f" One row in {shown.step} is drawn." if shown.step > 1 else ""
    note = (
        "<p>Every dot is a row; rows whose texts have words in common lie near each other (the first two principal "
        f"components of hashed TF-IDF features). First seed of each method.{thinned}</p>"
    )
    key = legend([("chosen", "selected"), ("left", "left out")])
    return f'{note}{key}<div class="cards">{"".join(cards)}</div>'


def _files(grid: GridResults, method: MethodRuns) -> list[Path]:
    return sorted((grid.run_folder(method.runs[0]) / "rows").glob("*.jsonl"))


def _changes_rows(method: MethodRuns) -> bool:
    ways = ("use_coreset", "use_trajectory_collection", "use_multi_task")
    return any(method.settings.get(way) for way in ways)


def _first_rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    """A row of each file, and more of the first one where there are fewer files."""
    found = [row for file in files[:_ROWS] for _, row in islice(jsonl.read_jsonl(file), 1)]
    more = islice(jsonl.read_jsonl(files[0]), 1, 1 + _ROWS - len(found)) if files else ()
    return [*found, *(row for _, row in more)]


def _places(texts: Sequence[str]) -> np.ndarray:
    """[n, 2] the first two principal components of the texts' features."""
    import numpy as np

    from sage.libs.finetune.agent.selection.features import text_features

    features = text_features(texts, _DIMENSIONS)
    centred = (features - features.mean(axis=0)).astype(np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ directions[:, :-3:-1])


def _row(row: RowPreview) -> str:
    left = len(row.pieces) - _PIECES
    more = f"<small>and {left:,} more tokens</small>" if left > 0 else ""
    return f'<p>{text(row.headline)}</p><div class="row-of-tokens">{"".join(_runs(row.pieces[:_PIECES]))}{more}</div>'


def _runs(pieces: Sequence[Piece]) -> Iterator[str]:
    """Trained tokens one by one in two shades, read ones together."""
    read = ""
    for number, piece in enumerate(pieces):
        shown = escape(valid(visible(piece.text)), quote=False)
        if not piece.weight and not piece.special:
            read += shown
            continue
        yield read
        read = ""
        kinds = " ".join(
            ["y"] * bool(piece.weight) + ["b"] * (number % 2 and bool(piece.weight)) + ["c"] * piece.special
        )
        yield f'<span class="{kinds}">{shown}</span>'
    yield read
