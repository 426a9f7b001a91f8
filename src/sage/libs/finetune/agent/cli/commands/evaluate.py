"""`evaluate`: how well a model replies on held-out rows, what it can do, and whether it is better than another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.cli.evaluation import (
    BUILTIN,
    Capabilities,
    Plan,
    Turns,
    measure,
    planned,
    sets_to_measure,
)
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

    from sage.libs.finetune.agent.capabilities.report import CapabilityReport
    from sage.libs.finetune.agent.evaluation.comparison import Comparison
    from sage.libs.finetune.agent.types import EvalResult


@dataclass
class EvaluateConfig(Config):
    """Which model, on what, against which other one."""

    model: str = option(
        help="run folder, adapter, model folder or id, endpoint (http://host/v1#name), or JSON of an earlier -o",
        positional=True,
    )
    data: str | None = option(
        None, "rows whose turns are asked for: JSONL file, or agent_sft:test; without: capabilities", positional=True
    )
    capabilities: str | None = option(None, f"which, with commas between [{','.join(BUILTIN)}]; or episodes")
    test_sets: str | None = option(
        None, "own items: planning=items.jsonl,timing=builtin:32,tool_use=bfcl:simple_python"
    )
    items: int | None = option(None, "items of each built-in test set [64]", low=1)
    against: str | None = option(None, "another model, or its JSON: is MODEL better or worse than it?")
    tolerance: float = option(
        0.0, "points of drop accepted; exit with 3 when a larger one is beyond doubt", low=0.0, high=100.0
    )
    output: Path | None = option(None, "JSON file of all replies", short="o")
    html: Path | None = option(None, "page of scores and replies")
    min_accuracy: float | None = option(
        None, "exit with 3 when the accuracy (of capabilities: the overall score) is below", low=0.0, high=1.0
    )
    eval_batch_size: int = option(32, "rows generated at once", low=1, aliases=("per_device_eval_batch_size",))
    max_new_tokens: int | None = option(None, "longest reply, in tokens [128 for turns, 256 for capabilities]", low=1)
    max_seq_length: int = option(
        2048, "longest row in tokens; longer ones lose whole exchanges, oldest first", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    concurrency: int = option(16, "requests to an endpoint at once", low=1)
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "weights; auto is bfloat16 where the processor computes in it"
    )

    def conflicts(self) -> list[str]:
        """Rows have turns and no capabilities; a tolerance needs something to be compared with; no input is lost."""
        faults = []
        given = {"capabilities": self.capabilities, "test_sets": self.test_sets, "html": self.html}
        if self.data is not None and (named := [f"'{name}'" for name, value in given.items() if value is not None]):
            faults.append(f"{' and '.join(named)}: for capabilities, which are measured without DATA; leave out one")
        if self.tolerance and self.against is None:
            faults.append("'tolerance': nothing to compare with; give 'against'")
        if self.output is not None and self.html is not None and self.output.resolve() == self.html.resolve():
            faults.append("'output' and 'html' are one file; give another name")
        read = [source for source in (self.model, self.data, self.against) if source is not None]
        try:
            read += sets_to_measure(self).values()
        except ConfigError as error:
            faults.append(str(error))
        return faults + self.overwritten(read)

    def overwritten(self, read: Iterable[str]) -> list[str]:
        """A fault for each of these inputs that is an output as well."""
        written = {"output": self.output, "html": self.html}
        return [
            f"'{name}' would overwrite {source}, which is read; give another name"
            for source in read
            for name, path in written.items()
            if path is not None and path.resolve() == Path(source).resolve()
        ]


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Measure, and compare. What is measured when that ends early, by Ctrl-C or a fault, is written and shown.

    The exit code is 3 below `min_accuracy`, or when a drop against the other model by more than `tolerance` is beyond
    doubt: the Holm-adjusted p-value is below 0.05 and the whole 95% interval of the difference is below it. It is 1 for
    a loss that is not a number, and when nothing could be scored.

    Raises:
        AgentFinetuneError: when a model or the data cannot be used, or the output not written.
        KeyboardInterrupt: on Ctrl-C before anything was measured.
    """
    from sage.libs.finetune.agent.jsonl import check_output, write_json

    for path in (config.output, config.html):
        if path is not None:
            check_output(path)
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    plan = planned(config)
    if faults := config.overwritten(plan.sets.values()):
        raise ConfigError(f"{faults[0]} (it is a test set of the earlier report)")
    if config.html is not None and isinstance(plan.found[0], Turns):
        raise ConfigError(f"--html is a page of capabilities, but {config.model} holds the turns of rows; leave it out")
    cut_short: list[Capabilities] = []
    sides = measure(config, plan, progress, cut_short.append)
    try:
        first = next(sides)
    except BaseException as reason:
        if not cut_short:
            raise
        report = _reported(config, plan, cut_short[0])
        return _ended(report, reason, f"not finished: {cut_short[0].report.unfinished_text()}", _where_kept(config))
    report = _reported(config, plan, first)
    if fault := _meaningless(first):
        report.exit_code, report.problem = 1, f"evaluate: {fault}"
        return report
    try:
        return _against(config, report, first, sides)
    except BaseException as reason:
        if config.output is not None and cut_short:
            write_json(config.output, {**first.to_dict(), "against": cut_short[0].to_dict()})
        kept = _where_kept(config) if plan.found[0] is None else ""
        return _ended(report, reason, f"not compared with {config.against}", kept)


def _reported(config: EvaluateConfig, plan: Plan, measured: Turns | Capabilities) -> Report:
    """What a model was measured to be, written to the files that are asked for and ready to be shown."""
    from sage.libs.finetune.agent.jsonl import write_json

    if config.output is not None:
        write_json(config.output, measured.to_dict())
    if config.html is not None and isinstance(measured, Capabilities):
        measured.report.save_html(config.html)
    return Report(measured.numbers(), [_facts(config, measured)], list(plan.notes))


def _where_kept(config: EvaluateConfig) -> str:
    return "without -o no reply is kept" if config.output is None else f"the replies so far are in {config.output}"


def _ended(report: Report, reason: BaseException, what: str, kept: str) -> Report:
    """The report of a command that ended early: why, what is missing, and where the rest is."""
    said = "; ".join(filter(None, [what, kept]))
    if isinstance(reason, KeyboardInterrupt):
        report.exit_code, report.problem = 130, said
    elif isinstance(reason, AgentFinetuneError):
        report.exit_code, report.problem = reason.exit_code, f"evaluate: {reason} ({said})"
    else:
        raise reason
    return report


def _against(
    config: EvaluateConfig, report: Report, first: Turns | Capabilities, others: Iterable[Turns | Capabilities]
) -> Report:
    from sage.libs.finetune.agent.evaluation.comparison import compare
    from sage.libs.finetune.agent.jsonl import write_json
    from sage.libs.finetune.agent.reporting.comparison import regression_problem

    failed = _below(config, first)
    for second in others:
        if fault := _meaningless(second):
            report.exit_code, report.problem = 1, f"evaluate: {second.model}: {fault}"
            return report
        comparison = compare(first.to_compare, second.to_compare)
        _add_comparison(report, comparison, first.model, second.model)
        if config.output is not None:
            write_json(config.output, {**first.to_dict(), "comparison": report.data["comparison"]})
        if worse := comparison.regressions(config.tolerance / 100):
            failed.append(regression_problem(worse, config.tolerance / 100, comparison.confidence))
    if failed:
        report.exit_code, report.problem = 3, f"evaluate: {'; '.join(failed)}"
    return report


def _facts(config: EvaluateConfig, measured: Turns | Capabilities) -> Table:
    from sage.libs.finetune.agent.reporting.tables import facts_table

    facts = _turn_facts(measured.result) if isinstance(measured, Turns) else _capability_facts(measured.report)
    written = {"replies": config.output, "page": config.html}
    return facts_table({**facts, **{name: str(path) for name, path in written.items() if path is not None}})


def _turn_facts(result: EvalResult) -> dict[str, str]:
    from sage.libs.finetune.agent.reporting.tables import interval, percent

    span = interval(result.accuracy_interval.low, result.accuracy_interval.high)
    return {
        "accuracy": f"{percent(result.accuracy)} (95% interval {span})",
        "turns": f"{result.n} in {result.rows} rows",
        "loss": f"{result.loss:.4f}",
        "valid calls": f"{percent(result.calls_valid)} of {result.calls_attempted}",
    }


def _capability_facts(report: CapabilityReport) -> dict[str, str]:
    from sage.libs.finetune.agent.capabilities.report import counts, title_of
    from sage.libs.finetune.agent.reporting.tables import interval, percent

    facts = {}
    for name, score in report.scores.items():
        span = score.interval
        # of a single graded reply there is no interval
        known = f", 95% interval {interval(span.low, span.high)}" if span and finite(span.low) is not None else ""
        facts[title_of(name)] = f"{percent(finite(score.score))} ({counts(score)}{known})"
    facts["Overall"] = percent(finite(report.overall))
    return {**facts, "Unfinished": report.unfinished_text()} if report.unfinished else facts


def _add_comparison(report: Report, comparison: Comparison, first: str, second: str) -> None:
    from sage.libs.finetune.agent.reporting.comparison import comparison_notes, comparison_table
    from sage.libs.finetune.agent.reporting.tables import facts_table

    report.data["comparison"] = {"against": second, **comparison.to_dict()}
    report.tables += ["", facts_table({"A": first, "B": second}), "", comparison_table(comparison)]
    report.notes += comparison_notes(comparison)


def _below(config: EvaluateConfig, measured: Turns | Capabilities) -> list[str]:
    if isinstance(measured, Turns):
        name, share = "accuracy", measured.result.accuracy
    else:
        name, share = "overall score", measured.report.overall
    if config.min_accuracy is None or share >= config.min_accuracy:
        return []
    return [f"{name} {share:.4f} is below --min-accuracy {config.min_accuracy:g}"]


def _meaningless(measured: Turns | Capabilities) -> str | None:
    """Why the numbers say nothing about the model, None where they do."""
    if isinstance(measured, Turns):
        loss = measured.result.loss
        if math.isfinite(loss):
            return None
        return (
            f"the model's loss is not a number ({loss}), so its replies mean nothing; evaluate with --dtype float32, "
            "or train again with a lower --learning-rate"
        )
    for name, score in measured.report.scores.items():
        if math.isnan(score.score):
            first = next((record["error"] for record in score.replies if record["error"]), None)
            return f"{name}: no reply could be scored{f'; the first error: {first}' if first else ''}"
    return None


COMMAND = Command(
    name="evaluate",
    help="Measure how well a model replies, and whether it is better than another.\n\nWith DATA: the turns of held-out "
    "rows, against what they should be. Without: its capabilities, on built-in test sets or your own (docs/evaluation"
    ".md). --against compares two models item by item.",
    example="sage-finetune evaluate runs/first test.jsonl --min-accuracy 0.8",
    config=EvaluateConfig,
    run=run,
)
