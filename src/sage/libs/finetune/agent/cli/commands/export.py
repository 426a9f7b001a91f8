"""`export`: a run as a merged model folder or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.training.export import Exported


@dataclass
class ExportConfig(Config):
    """Which model, in which form."""

    run: str = option(help="run folder, adapter, model folder or model id", positional=True)
    merge: bool = option(False, "write a model folder with the adapter merged")
    gguf: bool = option(False, "write a GGUF file (needs llama.cpp's convert_hf_to_gguf.py)")
    output: Path | None = option(None, "folder to make; else RUN/merged, or RUN/gguf without --merge", short="o")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "weights of the merged folder; auto is as the base model is stored"
    )
    outtype: Literal["bf16", "f16", "q8_0", "f32"] = option("bf16", "weights of the GGUF file")
    llama_cpp: Path | None = option(None, "folder of llama.cpp; else LLAMA_CPP, else PATH is searched")

    def conflicts(self) -> list[str]:
        """Something must be asked for, and settings of what was not asked for are slips."""
        faults = [] if self.merge or self.gguf else ["give --merge, --gguf, or both"]
        if not self.gguf and (self.outtype != "bf16" or self.llama_cpp is not None):
            faults.append("'outtype' and 'llama_cpp' are for --gguf")
        if not self.merge and self.dtype != "auto":
            faults.append("'dtype' is for --merge; a GGUF file has --outtype")
        return faults


def run(config: ExportConfig, progress: Progress) -> Report:
    """Write it, and say where it is and how close to the trained model.

    Raises:
        AgentFinetuneError: when it cannot be written, or differs from the model it was made of.
    """
    output = config.output or _beside(config)
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.export import export_model

    gguf = config.outtype if config.gguf else None
    done = export_model(
        config.run, output, merge=config.merge, dtype=config.dtype, gguf=gguf, llama_cpp=config.llama_cpp,
        progress=progress,
    )  # fmt: skip
    return _report(config, done)


def _beside(config: ExportConfig) -> Path:
    folder = Path(config.run).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"'{config.run}' is no folder here to export into; give --output DIR")
    return folder / ("merged" if config.merge else "gguf")


def _report(config: ExportConfig, done: Exported) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table

    merged = done.merged
    data = {
        "folder": str(done.folder),
        "gguf": str(done.gguf) if done.gguf else None,
        "adapter": merged.adapter or None,
        "dtype": merged.dtype if config.merge else None,
        "parameters": merged.parameters,
        "largest_difference": merged.difference,
        "bound": merged.bound,
    }
    facts = {"adapter": f"{merged.adapter}, merged in float32" if merged.adapter else "none: nothing to merge"}
    if config.merge:
        facts["model folder"] = f"{done.folder} ({merged.dtype}, {merged.parameters / 1e6:,.0f}M parameters)"
    if done.gguf:
        facts["GGUF file"] = str(done.gguf)
    what = "read back" if config.merge else "the merged model, before it was converted"
    facts["checked"] = (
        f"{what}; largest difference of a logit {merged.difference:.3g}, rounding explains {merged.bound:.3g}"
    )
    return Report(data, [facts_table(facts)], [f"how to serve it: {done.folder / 'README.md'}"])


COMMAND = Command(
    name="export",
    help="Write a run for servers: one merged model folder, a GGUF file, or both.\n\n"
    "The adapter is merged in float32 (four bytes of memory a parameter) and rounded once; what was written is read "
    "back and compared with the trained model.",
    example="sage-finetune export runs/first --merge",
    config=ExportConfig,
    run=run,
)
