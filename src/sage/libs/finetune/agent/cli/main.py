"""`sage-finetune`: parse first, import after.

Parsing ends in an `Invocation`; only then does the command import what does its work, so `--help` and usage errors
are quick. Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 runtime, 2 usage or configuration,
3 a check failed, 130 interrupted.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sage.libs.finetune.agent._version import __version__
from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.commands import (
    chat,
    collect,
    compare,
    convert,
    env,
    evaluate,
    export,
    filter,
    mix,
    preferences,
    preview,
    quickstart,
    report,
    reward_model,
    rl,
    select,
    stream,
    train,
    validate,
)
from sage.libs.finetune.agent.cli.launch import launch, split
from sage.libs.finetune.agent.cli.options import build_config, flags_given, parameters
from sage.libs.finetune.agent.config import Config
from sage.libs.finetune.agent.errors import AgentFinetuneError
from sage.libs.finetune.agent.training import processes

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "sage-finetune"
COMMANDS = (
    quickstart.COMMAND,
    collect.COMMAND,
    filter.COMMAND,
    convert.COMMAND,
    preferences.COMMAND,
    validate.COMMAND,
    preview.COMMAND,
    select.COMMAND,
    mix.COMMAND,
    train.COMMAND,
    stream.COMMAND,
    reward_model.COMMAND,
    rl.COMMAND,
    evaluate.COMMAND,
    compare.COMMAND,
    report.COMMAND,
    chat.COMMAND,
    export.COMMAND,
    env.COMMAND,
)
GROUPS = {"data": "Look into training data: check every row, see the very tokens."}
USAGE, RUNTIME, INTERRUPTED = 2, 1, 130

_CONTEXT = {
    "help_option_names": ["--help", "-h"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 100,
}

_COMMON = {
    "config_file": (
        Path | None,
        typer.Option(None, "--config", "-c", metavar="FILE", help="YAML file with these settings; flags win over it."),
    ),
    "as_json": (bool, typer.Option(False, "--json", help="Print one JSON object instead of tables.")),
    "verbose": (bool, typer.Option(False, "--verbose", "-v", help="Log what is going on.")),
    "debug": (bool, typer.Option(False, "--debug", hidden=True)),
}


@dataclass(frozen=True)
class Invocation:
    """A parsed command line."""

    command: Command
    typed: dict[str, Any]
    config_file: Path | None
    as_json: bool
    verbose: bool
    debug: bool
    launch: Launch | None = None


@dataclass(frozen=True)
class Launch:
    """A command line to run in several processes: its own part, and what is for `accelerate launch`."""

    own: Sequence[str]
    arguments: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    try:
        own, launched = split(sys.argv[1:] if arguments is None else arguments)
        parsed = _app()(own, prog_name=PROGRAM, standalone_mode=False)
        if isinstance(parsed, Invocation) and launched is not None:
            parsed = replace(parsed, launch=Launch(own, launched))
        code = _execute(parsed) if isinstance(parsed, Invocation) else int(parsed or 0)
        sys.stdout.flush()
    except typer.TyperException as error:
        if processes.first_to_fail():
            print(f"error: {_usage_line(error)}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # Whoever read us has gone (`| head`). Python flushes stdout once more at exit, which must not fail aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RUNTIME
    return code


def _app() -> typer.Typer:
    app = typer.Typer(
        name=PROGRAM,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=_CONTEXT,
    )
    app.callback(invoke_without_command=True, help=_HELP, epilog=_EPILOG)(_root)
    groups = {"": app}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(rich_markup_mode=None, context_settings=_CONTEXT)
            groups[group].callback(invoke_without_command=True)(_group)
            app.add_typer(groups[group], name=group, help=GROUPS[group])
        text = f"{command.help}\n\n\b\nExample:\n  {command.example}"
        groups[group].command(name, help=text)(_parser(command))
    return app


_HELP = """Fine-tune language models on agent tasks: collect, filter, convert, train, evaluate.

\b
Try it:  sage-finetune quickstart
Steps:   collect -> filter -> convert -> data validate -> train -> evaluate"""
_EPILOG = "Exit codes: 0 ok, 1 runtime error, 2 usage or configuration, 3 a check failed, 130 interrupted."


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> int | None:
    if version:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)
    return None


def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


def _parser(command: Command) -> Callable[..., Invocation]:
    """A function with the command's flags as its signature, which is where typer looks for them."""

    def parse(**values: Any) -> Invocation:
        common = {name: values.pop(name) for name in _COMMON}
        return Invocation(command, typed=values, **common)

    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=annotation)
        for name, (annotation, declared) in _COMMON.items()
    ]
    signature = inspect.Signature([*parameters(command.config), *shared])
    parse.__signature__ = signature  # type: ignore[attr-defined]
    parse.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return parse


def _usage_line(error: typer.TyperException) -> str:
    """One line: what is wrong, the nearest right name, where to look."""
    near = getattr(error, "possibilities", None)
    message, hint = (error.message, f"; did you mean '{near[0]}'?") if near else (error.format_message(), "")
    context = getattr(error, "ctx", None)
    return f"{' '.join(message.split())}{hint} (see {context.command_path if context else PROGRAM} --help)"


def _execute(invocation: Invocation) -> int:
    """Run the command, print what it reports, and turn what went wrong into a line and an exit code."""
    from rich.console import Console

    from sage.libs.finetune.agent.cli.logs import say

    stderr = Console(stderr=True)
    try:
        if invocation.launch is not None:
            _config(invocation)  # what is wrong with it is said before anything is started
            return launch(invocation.launch.own, invocation.launch.arguments)
        report = _run(invocation, stderr)
        if processes.is_first():
            _publish(report, invocation.as_json)
    except KeyboardInterrupt as interrupt:
        if processes.first_to_fail():
            say(stderr, "interrupted", str(interrupt) or "nothing more was done", "bold yellow")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # the outermost boundary: every failure becomes one line and an exit code
        if invocation.debug:
            stderr.print_exception()
        if not isinstance(error, AgentFinetuneError):
            processes.wait_for_the_end()
        if processes.first_to_fail():
            say(stderr, "error", _error_line(error, invocation))
        return error.exit_code if isinstance(error, AgentFinetuneError) else RUNTIME
    if report.problem and processes.is_first():
        kind = "interrupted" if report.exit_code == INTERRUPTED else "error"
        say(stderr, kind, report.problem)
    sys.stdout.flush()
    processes.leave()
    return report.exit_code


def _run(invocation: Invocation, stderr: Console) -> Report:
    import logging
    from contextlib import redirect_stdout

    from sage.libs.finetune.agent.cli.logs import logging_to
    from sage.libs.finetune.agent.reporting.progress import TerminalProgress

    command = invocation.command
    config = _config(invocation)
    level = logging.INFO if invocation.verbose else logging.WARNING
    if not processes.is_first():
        level = logging.CRITICAL
    # Stdout is for the report alone, whatever a library underneath may print; or for a command that talks.
    stdout = sys.stdout if command.talks and not invocation.as_json else sys.stderr
    with logging_to(stderr, level), redirect_stdout(stdout), TerminalProgress(stderr) as progress:
        return command.run(config, progress)


def _config(invocation: Invocation) -> Config:
    config = invocation.command.config
    return build_config(config, invocation.config_file, flags_given(config, invocation.typed))


def _publish(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.data, ensure_ascii=False, allow_nan=False))
        return
    from sage.libs.finetune.agent.reporting.tables import write_out

    if report.tables:
        write_out(report.tables)
    if report.notes:
        print("", *report.notes, sep="\n")


def _error_line(error: Exception, invocation: Invocation) -> str:
    if isinstance(error, AgentFinetuneError):
        return f"{invocation.command.name}: {error}"
    if isinstance(error, OSError) and error.strerror is not None:  # a full disk comes without a file name
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{invocation.command.name}: {where}{error.strerror}"
    again = "" if invocation.debug else "; run again with --debug for the traceback"
    return f"internal: {type(error).__name__}: {error}{again}"


if __name__ == "__main__":
    sys.exit(main())
