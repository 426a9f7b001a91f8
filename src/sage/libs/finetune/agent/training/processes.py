"""Several processes that train one model: who writes, who waits, and what all must agree on.

They are started by `sage-finetune train ... --` (`cli/launch.py`), `accelerate launch` or `torchrun`, which tell each
its number in the environment (RANK, WORLD_SIZE, LOCAL_RANK). The same program runs in all of them; process 0 alone
writes the run folder, shows progress and reports. Three rules keep a run from hanging in a collective operation:

- What depends on the run folder is decided by process 0 and told to the others, its errors as well (`first_decides`).
- What may happen in one process only (a signal, a loss that is no number) is agreed on at the same place of the step
  (`anywhere`, `first_of_all`), and then all do the same.
- Any other error ends its process, and with it the launcher ends the rest; the first that fails says so, the others
  fail in silence (`first_to_fail`).

With one process every function here does nothing, or what it is given to do. PyTorch is imported when it is needed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from sage.libs.finetune.agent.errors import AgentFinetuneError

Decision = TypeVar("Decision")

PATIENCE = timedelta(hours=6)
"""How long a process waits in a collective operation: for the slowest evaluation, checkpoint or first download."""

_FAILED = "sage-finetune/failed"
_ECHO_SECONDS = 3.0


def count() -> int:
    """How many processes train together.

    Example:
        >>> count()
        1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is process 0, the one that writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0 or count() == 1


def join() -> None:
    """Meet the other processes, over NCCL on CUDA devices and Gloo on CPUs; each takes its own device."""
    if count() == 1:
        return
    from accelerate import PartialState

    from sage.libs.finetune.agent.models.load import pick_device

    # FSDP2 warns at each forward of what would go wrong if losses were changed in place; ours are not.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    PartialState(cpu=pick_device().type == "cpu", timeout=PATIENCE)


def leave() -> None:
    """The last act of a process that did what it should: all wait here, so that none is ended while another writes."""
    import torch.distributed as together

    if count() > 1 and together.is_initialized():
        together.barrier()
        together.destroy_process_group()


def first_decides(decide: Callable[[], Decision]) -> Decision:
    """What `decide` returns in process 0, in every process; or what it raises there.

    Args:
        decide: Called in process 0 only; returns or raises something that can be pickled.

    Raises:
        AgentFinetuneError: the one that `decide` raised.

    Example:
        >>> first_decides(lambda: "run-0007")
        'run-0007'
    """
    if count() == 1:
        return decide()
    told: list[Any] = [None, None]
    if is_first():
        try:
            told[0] = decide()
        except AgentFinetuneError as error:
            told[1] = error
    import torch.distributed as together

    together.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    decision: Decision = told[0]
    return decision


def summed(numbers: list[int]) -> list[int]:
    """Each number summed over the processes; all have to ask.

    Example:
        >>> summed([3, 4])
        [3, 4]
    """
    if count() == 1:
        return numbers
    import torch
    import torch.distributed as together

    from sage.libs.finetune.agent.models.load import pick_device

    sums = torch.tensor(numbers, dtype=torch.int64, device=pick_device())
    together.all_reduce(sums)
    found: list[int] = sums.tolist()
    return found


def anywhere(flag: bool) -> bool:
    """Whether `flag` is set in any process; all have to ask.

    Example:
        >>> anywhere(False)
        False
    """
    return summed([int(flag)])[0] > 0


def first_of_all(problem: str | None) -> str | None:
    """The problem of the process with the lowest number that has one; all have to ask.

    Example:
        >>> first_of_all("the disk is full")
        'the disk is full'
    """
    if count() == 1:
        return problem
    import torch.distributed as together

    problems: list[str | None] = [None] * count()
    together.all_gather_object(problems, problem)
    return next((each for each in problems if each is not None), None)


def whole_weights(model: Any) -> dict[str, Any] | None:
    """The trained weights of a model of which each process holds a part (FSDP, ZeRO-3), in process 0 on the CPU.

    Args:
        model: Of transformers, or a PeftModel; all processes have to ask.

    Returns:
        None when each process has the whole model; what is returned in the other processes is of no use.
    """
    if count() == 1:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    parameters = dict(model.named_parameters())
    if any(hasattr(parameter, "ds_id") for parameter in parameters.values()):
        import deepspeed

        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        with deepspeed.zero.GatheredParameters(list(trained.values())):
            return {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
    if not any(isinstance(parameter, DTensor) for parameter in parameters.values()):
        return None
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=hasattr(model, "peft_config")
    )
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    for tied in getattr(model, "all_tied_weights_keys", ()):
        weights.pop(tied, None)  # gathered apart, they would be saved twice
    return weights


def wait_for_the_end() -> None:
    """After an error that may be the echo of another process's end: the launcher then ends this one too, unheard."""
    if count() > 1:
        time.sleep(_ECHO_SECONDS)


def first_to_fail() -> bool:
    """Whether no other process has asked before: the one that fails first says why.

    What fails before the processes meet (settings, files) fails in all of them, and process 0 says it.
    """
    if count() == 1:
        return True
    import torch.distributed as together

    if not together.is_initialized():
        return is_first()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = together.TCPStore(host, port, timeout=timedelta(seconds=5), wait_for_workers=False)  # type: ignore[attr-defined]
        return bool(store.add(_FAILED, 1) == 1)
    except (RuntimeError, OSError):  # the process that kept the store is gone, and said nothing to it
        return True
