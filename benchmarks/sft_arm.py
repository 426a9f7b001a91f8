"""One arm of `sft_throughput.py` in a process of its own, so that its peak memory is its own.

`python benchmarks/sft_arm.py JOB.json` trains one epoch and writes `result.json` into the job's folder. Ours goes
through the front door, `AgentSFTTrainer.train` with its defaults, and is read from the `metrics.jsonl` that it writes;
the peers are in `peers.py`. Both clocks run from the end of the warm-up's last step to the end of the last step, so
loading, rendering and saving are not in it. Tokens are logical ones: each row counts whole, padding not at all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import peers
from common import LEARNING_RATE, WARM_UP_STEPS, Job, memory_gb


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    _import_all(job.arm)
    start = memory_gb("VmRSS")
    result = ours(job) if job.arm == "ours" else peers.train(job.arm, job)
    _write(job.folder / "result.json", {**result, **_peak_memory(start)})


def ours(job: Job) -> dict[str, Any]:
    """As `peers.train`; for a comparison of losses also the row numbers of each step."""
    from sage.libs.finetune.agent import jsonl
    from sage.libs.finetune.agent.config import AgentSFTConfig
    from sage.libs.finetune.agent.progress import silent
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    config = AgentSFTConfig(
        base_model=job.model,
        train_data=str(job.samples),
        output_dir=job.folder / "run",
        batch_size=job.batch_size,
        gradient_accumulation_steps=1,
        num_epochs=1,
        learning_rate=LEARNING_RATE,
        warmup_ratio=0.0,  # as the peer's default
        max_seq_length=16384,  # no row is cut
        tool_format="compact",
        dtype=job.dtype,
        row_order=job.row_order,
        save_steps=10**6,
    )
    trainer = AgentSFTTrainer(config, silent)
    written = _fix_start(trainer, job) if job.adapter else {}
    result = trainer.train()
    lines = [line for _, line in jsonl.read_jsonl(job.folder / "run" / "metrics.jsonl")]
    first, last = lines[WARM_UP_STEPS - 1], lines[-1]
    return {
        "seconds": last["seconds"] - first["seconds"],
        "tokens": last["tokens"] - first["tokens"],
        "all_tokens": result.tokens_seen,
        "losses": result.losses,
        **written,
    }


def _fix_start(trainer: Any, job: Job) -> dict[str, Any]:
    """Write the adapter training begins with; return the rows of each step. The peer takes over both."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import set_seed

    from sage.libs.finetune.agent.models.adapters import add_adapter
    from sage.libs.finetune.agent.training.loop import epoch_batches

    set_seed(trainer.config.seed)
    trainer.loaded.model = add_adapter(trainer.loaded.model, trainer.config)
    save_file(get_peft_model_state_dict(trainer.loaded.model), job.adapter)
    return {"order": list(epoch_batches(job.rows(), trainer.config))}


def _import_all(arm: str) -> None:
    """What both load in any case is not the run's memory."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    if arm != "ours":
        from trl import SFTTrainer  # noqa: F401


def _peak_memory(start_gb: float) -> dict[str, float]:
    import torch

    if torch.cuda.is_available():
        return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    peak = memory_gb("VmHWM")
    return {"peak_gb": peak, "peak_above_start_gb": peak - start_gb}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()
