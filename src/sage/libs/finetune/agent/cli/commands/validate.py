"""`data validate`: everything that is wrong with training rows, before a minute of training is spent on them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.preflight.faults import Tally
    from sage.libs.finetune.agent.validation import ValidationReport


@dataclass
class ValidateConfig(Config):
    """What is checked, and with which model's tokens."""

    data: str = option(help="file, folder, or reference such as agent_sft:train", positional=True)
    source: str = option("auto", "form of the rows; auto looks at them", flag="from", aliases=("from",))
    model: str | None = option(
        None, "model id, folder, or smollm2-135m-instruct: also check the tokens", aliases=("base_model",)
    )
    max_seq_length: int = option(
        2048, "longest row in tokens, with --model", low=16, aliases=("max_length", "max_seq_len")
    )
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools, with --model")
    truncation: Literal["drop", "windows"] = option(
        "drop", "longer rows lose their oldest exchanges, or are split into windows, with --model"
    )
    allow: str | None = option(None, "kinds of faults to let through, separated by commas")


def run(config: ValidateConfig, progress: Progress) -> Report:
    """Check every row; the exit code is 3 when one fails.

    Raises:
        ConfigError: for an unknown kind in `allow`.
        DataError: when the data cannot be read at all.
        ModelError: when the model has no usable tokenizer.
    """
    from sage.libs.finetune.agent.preflight.faults import allowed_kinds
    from sage.libs.finetune.agent.validation import validate

    allowed = allowed_kinds(config.allow)
    tokenizer, template = None, None
    if config.model is not None:
        from sage.libs.finetune.agent.cli.logs import quiet_transformers

        quiet_transformers()
        from sage.libs.finetune.agent.models.load import load_tokenizer

        tokenizer, template = load_tokenizer(config.model, tool_format=config.tool_format)
    max_length = config.max_seq_length if tokenizer is not None else None
    found = validate(config.data, config.source, tokenizer, max_length, allowed, progress, config.truncation)
    data = {**found.to_dict(), "model": config.model, "template": vars(template) if template else None}
    report = Report(data, [_table(found)], _notes(found, template))
    if found.failed:
        report.exit_code = 3
        report.problem = (
            f"data validate: {found.failed} of {found.rows} rows in {config.data} fail; mend them, or let their kinds "
            f"through with --allow {','.join(found.fatal)}"
        )
    else:
        report.notes += [*([""] if report.notes else []), _next(config, found)]
    return report


def _table(found: ValidationReport) -> Any:
    from sage.libs.finetune.agent.preflight.faults import KINDS, in_order, is_note
    from sage.libs.finetune.agent.reporting.tables import make_table, percent

    def line(name: str, tally: Tally) -> tuple[str, str, str, str]:
        shown = f"{name}{' (allowed)' if name in found.allowed else ''}: {KINDS[name].meaning}"
        first = ", ".join(_place(where, found.reference) for where in tally.first)
        more = " ..." if tally.rows > len(tally.first) else ""
        return shown, str(tally.rows), percent(tally.rows / found.rows), first + more

    rows = [("kept", str(found.kept), percent(found.kept / found.rows), "")]
    if found.left_out:
        rows.append(("left out, with nothing to train on", str(found.left_out), "", ""))
    rows += [line(name, tally) for name, tally in in_order(found.found).items() if not is_note(name)]
    return make_table((f"{found.rows} rows ({found.source})", "rows", "share", "first lines"), rows)


def _notes(found: ValidationReport, template: Any) -> list[str]:
    """What the table has no room for: the first fault of each kind in its own words, and what is merely counted."""
    from sage.libs.finetune.agent.preflight.faults import KINDS, in_order, is_note

    tallies = in_order(found.found)
    said = []
    for name, tally in tallies.items():
        if not is_note(name):
            said += [f"{name}: {tally.first[0]}: {tally.message}", f"  {KINDS[name].remedy}"]
    counted = []
    if found.tokens is not None:
        tokens = found.tokens
        counted.append(
            f"{tokens['total']:,} tokens, {tokens['trained']:,} of them trained, the longest row has "
            f"{tokens['longest']:,}"
        )
    if template is not None:
        counted.append(f"chat template: {template.source} ({template.tool_format}); {template.reason}")
    for name, tally in tallies.items():
        if is_note(name):
            rows = "1 row" if tally.rows == 1 else f"{tally.rows} rows"
            counted.append(f"{name}: {rows} {KINDS[name].meaning}{_lost(found, name)}; {KINDS[name].remedy}")
    if not found.all_compared:
        counted.append("duplicates were looked for among the first million rows only")
    return [*said, "", *counted] if said and counted else [*said, *counted]


def _lost(found: ValidationReport, name: str) -> str:
    """What went with the exchanges that kept rows had to lose."""
    if name != "shortened" or not found.tokens:
        return ""
    lost = found.tokens
    return (
        f" ({lost['dropped_exchanges']} exchanges, {lost['dropped_tokens']:,} tokens, {lost['trained_tokens_lost']:,} "
        "of them to be trained)"
    )


def _place(where: str, reference: str) -> str:
    """`3` for line 3 of the file, the file with it for one of a folder."""
    for mark in (":", ", "):
        if where.startswith(f"{reference}{mark}"):
            return where.removeprefix(f"{reference}{mark}")
    return where.removeprefix(f"{reference}/") if Path(reference).is_dir() else where


def _next(config: ValidateConfig, found: ValidationReport) -> str:
    """The command to go on with, under the settings that were checked."""
    settings = {
        "--from": config.source if config.source != "auto" else None,
        "--max-seq-length": config.max_seq_length if config.max_seq_length != ValidateConfig.max_seq_length else None,
        "--truncation": config.truncation if config.truncation != "drop" else None,
        "--tool-format": config.tool_format if config.tool_format != "auto" else None,
        "--allow": ",".join(sorted(found.allowed)) or None,
    }
    if config.model is None:
        command = ["data", "validate", config.data, "--model", "MODEL"]
    elif config.source != "auto":  # training looks at the rows itself
        command = ["convert", config.data, "--from", config.source, "--to", "chatml", "-o", "OUT.jsonl"]
        return f"next: {shlex.join(['sage-finetune', *command])}"
    else:
        command = ["train", "--base-model", config.model, "--train-data", config.data]
    flags = [str(part) for flag, value in settings.items() if value is not None for part in (flag, value)]
    return f"next: {shlex.join(['sage-finetune', *command, *flags])}"


COMMAND = Command(
    name="data validate",
    help="Check every training row; with --model also the very tokens it trains.\n\n"
    "Exit code 3 when a row fails. Training runs the same checks.",
    example="sage-finetune data validate rows.jsonl --model smollm2-135m-instruct",
    config=ValidateConfig,
    run=run,
)
