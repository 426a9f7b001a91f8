"""`data preview`: the very tokens that training would see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.reporting.preview import RowPreview
    from sage.libs.finetune.agent.sources.stream import Imported


@dataclass
class PreviewConfig(Config):
    """Which rows, and with which model's tokens."""

    data: str = option(help="file, folder, or reference such as agent_sft:train", positional=True)
    model: str = option(help="model id, folder, or smollm2-135m-instruct", aliases=("base_model",))
    count: int = option(3, "rows to show, from the first on", low=1, short="n")
    row: int | None = option(None, "show this one, counted from 1", low=1)
    source: str = option("auto", "form of the rows; auto looks at them", flag="from", aliases=("from",))
    max_seq_length: int = option(
        2048, "longest row in tokens; longer ones lose whole exchanges, oldest first", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools")
    html: Path | None = option(None, "write the rows into this HTML page instead")


def run(config: PreviewConfig, progress: Progress) -> Report:
    """Show some rows; those that cannot be read or rendered are told, and the exit code is 3 then.

    Raises:
        DataError: when the data cannot be read at all or has no such row, or the page cannot be written.
        ModelError: when the model has no usable tokenizer.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers
    from sage.libs.finetune.agent.jsonl import check_output, write_text

    if config.html is not None:
        check_output(config.html)
    rows = list(_rows(config))
    quiet_transformers()
    from sage.libs.finetune.agent.models.load import load_tokenizer
    from sage.libs.finetune.agent.reporting.preview import Legend, RowPreview, preview_row

    tokenizer, template = load_tokenizer(config.model, tool_format=config.tool_format)
    shown: list[RowPreview | DataError] = []
    for row in rows:
        try:
            if row.sample is None:
                raise row.error or DataError(f"{row.where}: cannot be read")
            shown.append(preview_row(row.where, row.sample, tokenizer, config.max_seq_length))
        except DataError as error:
            shown.append(error)
    good = [row for row in shown if isinstance(row, RowPreview)]
    faults = [str(error) for error in shown if isinstance(error, DataError)]
    facts = [f"model: {config.model}", f"chat template: {template.source} ({template.reason})"]
    report = Report({
        "data": config.data, "model": config.model, "template": vars(template), "max_seq_length": config.max_seq_length,
        "rows": [row.to_dict() for row in good], "faults": faults,
    }, notes=facts)  # fmt: skip
    if config.html is not None:
        from sage.libs.finetune.agent.reporting.preview_page import preview_page

        write_text(config.html, preview_page(f"Preview of {config.data}", facts, good))
        report.tables = [_line(row) for row in shown]
        report.notes.append(f"page: {config.html}")
    else:
        report.tables = [Legend(), *(part for row in shown for part in ("", _line(row, tokens=True)))]
    if faults:
        report.exit_code = 3
        report.problem = (
            f"data preview: {len(faults)} of {len(shown)} rows cannot be shown; "
            f"run: sage-finetune data validate {config.data} --model {config.model}"
        )
    return report


def _rows(config: PreviewConfig) -> Iterator[Imported]:
    from sage.libs.finetune.agent.sources.resolve import imported

    rows = imported(config.data, config.source)
    if config.row is None:
        yield from islice(rows, config.count)
        return
    number = 0
    for number, row in enumerate(rows, start=1):
        if number == config.row:
            yield row
            return
    raise DataError(f"{config.data}: has {number} rows, so --row {config.row} is none of them")


def _line(row: RowPreview | DataError, *, tokens: bool = False) -> Any:
    """A row for the terminal: with its tokens, or its headline alone; or what is wrong with it."""
    from rich.text import Text

    from sage.libs.finetune.agent.preflight.faults import printable

    if isinstance(row, DataError):
        return Text(printable(str(row)), style="red")
    return row if tokens else Text(row.headline)


COMMAND = Command(
    name="data preview",
    help="Show the very tokens of training rows, and which of them are trained.",
    example="sage-finetune data preview rows.jsonl --model Qwen/Qwen2.5-1.5B-Instruct -n 1",
    config=PreviewConfig,
    run=run,
)
