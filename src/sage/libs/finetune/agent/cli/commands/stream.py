"""`stream`: train on one task after the other, and see after each what has become of the earlier ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.training.stream_config import StreamConfig

if TYPE_CHECKING:
    from sage.libs.finetune.agent.training.stream_record import StreamResult


def run(config: StreamConfig, progress: Progress) -> Report:
    """Run the stream, or what is left of it.

    Raises:
        AgentFinetuneError: when a model or data cannot be used, or the folder holds another stream.
        KeyboardInterrupt: with how to go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.stream import run_stream

    try:
        result = run_stream(config, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command to go on") from None
    return _report(result)


def _report(result: StreamResult) -> Report:
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.stream import draw_stream, stream_tables
    from sage.libs.finetune.agent.training import processes

    if processes.is_first():
        draw_stream(result.output_dir)
    data = {
        "output_dir": str(result.output_dir),
        "tasks": result.tasks,
        "measure": result.measure,
        "before": None if result.before is None else result.line(result.before),
        "matrix": result.matrix,
        **result.figures,
        "seconds": result.seconds,
    }
    notes = [
        f"time    {clock_time(result.seconds)}",
        f"folder  {result.output_dir} (stream.json, stream.png)",
        "next:   put another task at the end of the file and run the same command",
    ]
    return Report(data, stream_tables(result), notes)


COMMAND = Command(
    name="stream",
    help="Train on a stream of tasks, each from the model before it, and measure forgetting.\n\n"
    "The file has the settings of `train`, which hold for all tasks, and `tasks`: a list of name, train_data, "
    "eval_data and settings of the task alone. The same command goes on after an interruption, and with tasks that "
    "were added to the end of the list.",
    example="sage-finetune stream --config configs/stream.yaml",
    config=StreamConfig,
    run=run,
)
