"""`convert`: trajectories to training rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress


@dataclass
class ConvertConfig(Config):
    """What a training row looks like."""

    input: Path = option(help="JSONL file of trajectories", positional=True)
    output: Path = option(help="JSONL file of rows", short="o")
    to: Literal["chatml", "alpaca"] = option(
        "chatml", "chatml (messages and tools: what train reads) or alpaca (one text, for other tools)"
    )
    include_observation: bool = option(True, "keep what the environment answered; it is never trained on")
    system_prompt: str | None = option(None, "system message of every row instead of the trajectory's own")

    def conflicts(self) -> list[str]:
        """The input is not overwritten."""
        same = self.input.absolute() == self.output.absolute()
        return ["'output' is the input file; give another name"] if same else []


def run(config: ConvertConfig, progress: Progress) -> Report:
    """Convert one file.

    Raises:
        DataError: when the input cannot be read or the output not written, or a trajectory has no form in the format.
    """
    from sage.libs.finetune.agent.conversion.converter import SFTConversionConfig, TrajectoryToSFTConverter
    from sage.libs.finetune.agent.jsonl import check_output, write_jsonl
    from sage.libs.finetune.agent.reporting.tables import facts_table
    from sage.libs.finetune.agent.trajectories.io import load_trajectories

    check_output(config.output)
    settings = SFTConversionConfig(config.to, config.include_observation, config.system_prompt)
    rows = TrajectoryToSFTConverter(settings).convert(load_trajectories(config.input))
    write_jsonl(config.output, rows)
    facts = {"rows": str(len(rows)), "format": config.to, "output": str(config.output)}
    report = Report({"rows": len(rows), "format": config.to, "output": str(config.output)}, [facts_table(facts)])
    if config.to == "chatml":
        report.notes.append(f"next: sage-finetune train --base-model MODEL --train-data {config.output}")
    return report


COMMAND = Command(
    name="convert",
    help="Turn trajectories into training rows.",
    example="sage-finetune convert kept.jsonl -o rows.jsonl",
    config=ConvertConfig,
    run=run,
)
