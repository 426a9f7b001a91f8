"""What stops a run, told in one line with the way on: a loss that is no number, memory that ends, a full disk.

A step whose loss or gradient is not finite is never applied: `StepGuard` looks at both between the backward pass and
the optimiser's step, at the price of one transfer from the device (the number that the log needs anyway). It knows the
loss of every micro-batch, so it can say which one it was and which rows were in it. Under DeepSpeed, whose engine
steps inside its backward pass, the look comes one step late; weights are looked at before each checkpoint as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import DivergedError, TrainingError
from sage.libs.finetune.agent.training.checkpoints import newest_checkpoint

_SHOWN = 8
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "bad_alloc")
_WANTED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


class StepGuard:
    """Stops an optimiser step whose loss or gradient is no number, before it is applied.

    Args:
        output_dir: The run folder, to name its last good checkpoint.
        places: Where each training row comes from, as `FILE:NUMBER`; None when it is not known.

    Example:
        >>> guard = StepGuard(Path("no-run"), ["rows.jsonl:1", "rows.jsonl:2"])
        >>> guard.saw(torch.tensor(1.5), rows=[1])
        >>> guard.check(step=1, gradient_norm=torch.tensor(0.5))
        0.5
        >>> guard.saw(torch.tensor(float("nan")), rows=[1])
        >>> guard.check(step=2, gradient_norm=torch.tensor(0.5))
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.DivergedError: step 2: the loss is nan in batch 1 of 1 (row 2 of \
rows.jsonl); the step was not made; look at these rows, or lower learning_rate in a new run; no checkpoint was \
written before
    """

    def __init__(self, output_dir: Path, places: Sequence[str] | None = None) -> None:
        self._output_dir, self._places = output_dir, places
        self._losses: list[Tensor] = []
        self._rows: list[Sequence[int]] = []

    def saw(self, loss: Tensor, rows: Sequence[int] | None) -> None:
        """Remember a micro-batch: its loss (a scalar, left on its device) and the indices of its training rows."""
        self._losses.append(loss.detach())
        self._rows.append(rows or ())

    def check(self, step: int, gradient_norm: Any) -> float | None:
        """Look at the micro-batches since the last check.

        Args:
            step: The optimiser step that is about to be made, counted from 1.
            gradient_norm: Of the whole step: a scalar tensor, a number, or None when it is not known.

        Returns:
            The gradient norm as a number.

        Raises:
            DivergedError: naming step, micro-batch, rows, and the checkpoint to go back to.
        """
        losses, rows = self._losses, self._rows
        self._losses, self._rows = [], []
        if hasattr(gradient_norm, "full_tensor"):  # sharded over processes
            gradient_norm = gradient_norm.full_tensor()
        scalars = [*losses, *([] if gradient_norm is None else [torch.as_tensor(gradient_norm)])]
        if not scalars:
            return None
        device = scalars[0].device
        numbers = torch.stack([scalar.to(device, torch.float32).reshape(()) for scalar in scalars]).tolist()
        norm = None if gradient_norm is None else numbers[-1]
        bad = next((index for index in range(len(losses)) if not math.isfinite(numbers[index])), None)
        if bad is not None:
            self._stop(step, f"the loss is {numbers[bad]} in batch {bad + 1} of {len(losses)}", rows[bad])
        if norm is not None and not math.isfinite(norm):
            what = f"the gradient norm is {norm} though the loss is finite"
            self._stop(step, what, [row for batch in rows for row in batch])
        return norm

    def _stop(self, step: int, what: str, rows: Sequence[int]) -> NoReturn:
        where = f" ({rows_named(rows, self._places)})" if rows else ""
        checkpoint = newest_checkpoint(self._output_dir)
        last = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was written before"
        raise DivergedError(
            f"step {step}: {what}{where}; the step was not made; look at these rows, or lower learning_rate in a new "
            f"run; {last}"
        )


def rows_named(rows: Sequence[int], places: Sequence[str] | None) -> str:
    """Training rows as their owner knows them.

    Args:
        rows: Indices into the training rows.
        places: `FILE:NUMBER` of each training row; None names the indices.

    Example:
        >>> rows_named([0, 2], ["a.jsonl:4", "a.jsonl:5", "a.jsonl:17"])
        'rows 4, 17 of a.jsonl'
        >>> rows_named([7], None)
        'training row 7, counted from 0'
    """
    if places is None:
        return f"training {_listed([str(row) for row in sorted(rows)])}, counted from 0"
    files: dict[str, list[str]] = {}
    for place in dict.fromkeys(places[row] for row in sorted(rows)):  # windows of a row share its place
        file, _, number = place.rpartition(":")
        files.setdefault(file, []).append(number)
    return "; ".join(f"{_listed(numbers)} of {file}" for file, numbers in files.items())


@contextmanager
def told_of_memory(config: AgentSFTConfig, estimate: int | None = None) -> Iterator[None]:
    """Out of memory as one line that says which settings to change.

    Args:
        config: The settings that were not enough for.
        estimate: Bytes that the run was expected to need, None when nobody estimated.

    Raises:
        TrainingError: in place of what PyTorch or Python raise when memory ends, on any device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TrainingError) or not out_of_memory(error):
            raise
        raise TrainingError(_memory_text(config, str(error), estimate)) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ended; the CPU allocator has only words for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _NO_MEMORY)


@contextmanager
def told_of_disk(folder: Path) -> Iterator[None]:
    """What the libraries raise when a file cannot be written, as one line with the way on.

    Raises:
        TrainingError: in place of it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder} cannot be written ({error}); free some space there and resume: what was saved before is whole"
        ) from error


def _memory_text(config: AgentSFTConfig, said: str, estimate: int | None) -> str:
    wanted = _WANTED.search(said)
    facts = []
    if wanted:
        number, unit = wanted.groups()
        facts.append(f"{_gib(float(number)) if unit == 'bytes' else f'{number} {unit}'} more were asked for")
    if estimate is not None:
        facts.append(f"the estimate was {_gib(estimate)} in all")
    ways = []
    if config.batch_size > 1:
        factor = next(factor for factor in range(2, config.batch_size + 1) if config.batch_size % factor == 0)
        ways.append(
            f"batch_size {config.batch_size // factor} with gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps * factor} (as many rows a step)"
        )
    if config.gradient_checkpointing is not True:
        ways.append("gradient_checkpointing true (the same result, slower)")
    ways.append(f"max_seq_length below {config.max_seq_length}")
    if config.use_lora and torch.cuda.is_available() and not config.load_in_4bit:
        ways.append("load_in_4bit true")
    if not config.use_lora:
        ways.append("use_lora true")
    known = f" ({', '.join(facts)})" if facts else ""
    evaluating = "; if it was evaluating, resume with a lower eval_batch_size" if config.eval_data else ""
    return f"out of memory{known}; start a new run with {', or '.join(ways)}{evaluating}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _listed(numbers: Sequence[str]) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {', '.join(numbers[:_SHOWN])}{more}"
