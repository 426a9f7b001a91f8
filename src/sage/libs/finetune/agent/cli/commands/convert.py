"""`convert`: rows of any known form to another one, and what got lost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.episodes import output_faults
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.exchange import ExchangeReport
    from sage.libs.finetune.agent.preflight.faults import Tally


@dataclass
class ConvertConfig(Config):
    """What is read and how it is written."""

    input: Path = option(help="file or folder of rows: JSON Lines, a JSON array, Parquet, gzip", positional=True)
    output: Path = option(help="JSONL file of rows", short="o")
    source: str = option(
        "auto",
        "form of the input: auto, trajectory, chat, anthropic, sharegpt, alpaca, react, fireact or atif",
        flag="from",
        aliases=("from",),
    )
    to: Literal["chatml", "alpaca", "sharegpt", "trajectory", "atif"] = option(
        "chatml", "form of the output; chatml (messages and tools) is what train reads"
    )
    tools: Path | None = option(None, "JSON file of tool schemas, for rows that have none")
    include_observation: bool = option(True, "keep what the environment answered; it is never trained on")
    system_prompt: str | None = option(None, "system message of every row instead of its own")
    arguments: Literal["object", "json"] = option(
        "object", "chatml: arguments of calls as objects, or as JSON text (OpenAI's wire form)"
    )
    skip_bad: bool = option(False, "leave out rows that cannot be converted, and count them")

    def conflicts(self) -> list[str]:
        """The input is neither overwritten nor added to; the wire form is chatml's."""
        faults = output_faults(self.input, self.output)
        if self.arguments == "json" and self.to != "chatml":
            faults.append(f"'arguments' json is for chatml, not {self.to}")
        return faults


def run(config: ConvertConfig, progress: Progress) -> Report:
    """Convert one file.

    Raises:
        DataError: when the input cannot be read at all, or the output not written.
        ConfigError: for an unknown form.
    """
    from sage.libs.finetune.agent.exchange import convert_file, read_tools_file
    from sage.libs.finetune.agent.jsonl import check_output

    check_output(config.output)
    result = convert_file(
        config.input,
        config.output,
        config.source,
        config.to,
        tools=read_tools_file(config.tools) if config.tools else None,
        include_observation=config.include_observation,
        system_prompt=config.system_prompt,
        arguments=config.arguments,
        skip_bad=config.skip_bad,
    )
    return _report(result, config)


def _report(result: ExchangeReport, config: ConvertConfig) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table, make_table

    facts = {
        "rows": str(result.written if result.output else result.read),
        "from": result.source or "-",
        "format": result.to,
    }
    if result.failures:
        facts["left out" if result.output else "bad rows"] = str(result.failures)
    facts["output"] = str(result.output) if result.output else "nothing was written"
    report = Report(_data(result), [facts_table(facts)])
    if result.lost:
        rows = [(name, str(tally.rows), _first(tally, config.input)) for name, tally in _by_rows(result.lost)]
        report.tables += ["", make_table((f"{result.to} has no place for", "rows", "first in"), rows)]
    if result.failed:
        rows = [(tally.message, str(tally.rows), _first(tally, config.input)) for _, tally in _by_rows(result.failed)]
        report.tables += ["", make_table(("why rows cannot be converted", "rows", "first in"), rows)]
    if not result.output:
        report.exit_code = 3
        remedy = "" if result.failures == result.read else "; mend them, or leave them out with --skip-bad"
        report.problem = f"convert: {result.failures} of {result.read} rows cannot be converted{remedy}"
        return report
    if result.to == "sharegpt":
        report.notes.append(
            "words beside a call, where there are any, are a turn of their own; LLaMA-Factory skips such rows"
        )
    if result.to == "chatml":
        report.notes.append(f"next: sage-finetune data validate {config.output} --model MODEL")
    elif result.to == "trajectory":
        report.notes.append(f"next: sage-finetune filter {config.output} -o kept.jsonl")
    else:
        report.notes.append(f"next: sage-finetune data validate {config.output}")
    return report


def _data(result: ExchangeReport) -> dict[str, Any]:
    return {
        "rows": result.written,
        "read": result.read,
        "bad": result.failures,
        "from": result.source,
        "format": result.to,
        "output": str(result.output) if result.output else None,
        "lost": {name: {"rows": tally.rows, "first": tally.first} for name, tally in result.lost.items()},
        "failed": [asdict(tally) for tally in result.failed.values()],
    }


def _by_rows(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    return sorted(tallies.items(), key=lambda item: -item[1].rows)


def _first(tally: Tally, path: Path) -> str:
    """The first lines, without the name of the file."""
    places = [where.removeprefix(f"{path}:") for where in tally.first[:3]]
    return ", ".join([*places, *(["..."] if tally.rows > len(places) else [])])


COMMAND = Command(
    name="convert",
    help="Turn rows of any known form into training rows, or into another form, and say what got lost.",
    example="sage-finetune convert kept.jsonl -o rows.jsonl",
    config=ConvertConfig,
    run=run,
)
