"""`sage-finetune train ... -- ARGUMENTS`: the same command in several processes, by `accelerate launch ARGUMENTS`.

accelerate works out what the arguments and its config file mean, and starts the processes through torchrun. It is
called within this process, for three things that it does not do by itself:

- Ctrl-C and SIGTERM go to each worker once, with as much time as they need to write a checkpoint; torchrun would kill
  them after 30 seconds.
- The exit code is that of the worker that failed first, which has said why in one line; torchrun's report is left out.
  Only of a worker that was killed, and so said nothing, is there a line from here.
- `--cpu` with several processes starts them; accelerate does that through MPI only and starts a single one without.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from sage.libs.finetune.agent.errors import ConfigError, TrainingError

COMMAND = "train"
_WORKER = "sage.libs.finetune.agent.cli.main"
_OURS = (signal.SIGINT, signal.SIGTERM)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What comes before the first `--` of a `train` command line, and what comes behind it; None without one.

    Example:
        >>> split(["train", "--config", "run.yaml", "--", "--num_processes", "2"])
        (['train', '--config', 'run.yaml'], ['--num_processes', '2'])
        >>> split(["train", "--config", "run.yaml"])
        (['train', '--config', 'run.yaml'], None)
    """
    own = list(arguments)
    if own[:1] != [COMMAND] or "--" not in own:
        return own, None
    at = own.index("--")
    return own[:at], own[at + 1 :]


def launch(own: Sequence[str], arguments: Sequence[str]) -> int:
    """Run a command line in several processes and return its exit code.

    Args:
        own: The command with its flags, checked.
        arguments: For `accelerate launch`; with none its default config file says what to start.

    Raises:
        ConfigError: when accelerate does not understand the arguments.
        TrainingError: when a worker was killed.
        KeyboardInterrupt: when a signal ended the workers before they trained.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    chosen = _parsed(own, arguments)
    # Its own handling of these two would end the workers after 30 seconds.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    with _quiet(), _passing_signals_on() as passed:
        try:
            launch_command(chosen)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return _exit_code(failure.exitcode, f"process {rank}", bool(passed))
        except subprocess.CalledProcessError as error:
            return _exit_code(error.returncode, "the process", bool(passed))
        except (ValueError, ImportError, OSError, AssertionError) as error:
            raise ConfigError(f"accelerate launch: {error}") from error
    return 0


def _parsed(own: Sequence[str], arguments: Sequence[str]) -> argparse.Namespace:
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"what follows `--` is for accelerate launch: {message} (see accelerate launch --help)")

    parser.error = refuse
    chosen: argparse.Namespace = parser.parse_args([*arguments, "--module", _WORKER, *own])
    if chosen.training_script != _WORKER:
        refuse(f"unexpected argument: {chosen.training_script}")
    chosen.quiet = False  # else the exit code of a single process is lost
    configured = _config_file(chosen)
    _start_several_on_cpu(chosen, configured)
    if configured is None and chosen.main_process_port is None and (chosen.num_machines or 1) == 1:
        chosen.main_process_port = 0  # any free port: another run may have the usual one
    return chosen


def _config_file(chosen: argparse.Namespace) -> Any:
    """What accelerate's config file says: the given one, else its default if there is one; None without any."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if chosen.config_file is None and (chosen.cpu or not Path(default_config_file).is_file()):
        return None
    try:
        return load_config_from_file(chosen.config_file)
    except Exception as error:  # whatever its YAML reader and its checks raise on a foreign file
        raise ConfigError(f"accelerate config file {chosen.config_file or default_config_file}: {error}") from error


def _start_several_on_cpu(chosen: argparse.Namespace, configured: Any) -> None:
    cpu = chosen.cpu or (configured is not None and configured.use_cpu)
    number = chosen.num_processes or (configured.num_processes if configured is not None else None) or 1
    if not cpu or number < 2 or chosen.mpirun_hostfile is not None:
        return
    chosen.cpu, chosen.multi_gpu, chosen.num_processes = False, True, number  # torchrun, which serves CPUs as well
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if chosen.num_cpu_threads_per_process is None and "OMP_NUM_THREADS" not in os.environ:
        here = max(1, number // (chosen.num_machines or 1))
        chosen.num_cpu_threads_per_process = max(1, len(os.sched_getaffinity(0)) // here)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of accelerate and torchrun on what they chose and on workers that failed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Each Ctrl-C and SIGTERM goes to all workers, which run in sessions of their own; gives the signals so far."""
    passed: list[int] = []
    before = {number: signal.getsignal(number) for number in _OURS}

    def pass_on(number: int, frame: FrameType | None) -> None:
        import psutil

        passed.append(number)
        for worker in psutil.Process().children():
            worker.send_signal(number)

    for number in _OURS:
        signal.signal(number, pass_on)
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _exit_code(code: int, who: str, signalled: bool) -> int:
    """The worker's own, which has said what happened; a killed one has not."""
    if code >= 0:
        return code
    if signalled:
        raise KeyboardInterrupt
    raise TrainingError(
        f"{who} was ended by {signal.Signals(-code).name} (the system does that when memory ends); if there is a "
        "checkpoint, the same command with --resume goes on from it"
    )
