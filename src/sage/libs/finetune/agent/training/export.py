"""A run as something that servers load without this package: a merged model folder, a GGUF file, or both.

Everything is written into a folder beside the one that was asked for, checked there (see `models/merge.py`), and put
in place by one rename, so whoever sees the folder sees a whole and proved model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.models.gguf import convert, find_converter
from sage.libs.finetune.agent.models.merge import Merged, write_merged
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.serving import serve_gguf, serve_model


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        merged: What was merged, and how close it is to base and adapter.
        gguf: The GGUF file, None when none was asked for.
    """

    folder: Path
    merged: Merged
    gguf: Path | None


def export_model(
    name: str,
    output: Path,
    *,
    merge: bool = True,
    dtype: str = "auto",
    gguf: str | None = None,
    llama_cpp: Path | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a model for serving.

    Args:
        name: Run folder, adapter, model folder or model id.
        output: Folder to make; an empty one may be there.
        merge: Keep the merged model folder in it.
        dtype: Its number type: "float32", "bfloat16", or "auto": as the base model is stored.
        gguf: Number type of a GGUF file to write too ("f32", "f16", "bf16" or "q8_0"), None for no such file. Without
            `merge` the file is made from float32, so weights are rounded once.
        llama_cpp: Where llama.cpp's converter is; see `models.gguf.find_converter`.
        progress: Told about each step.

    Raises:
        ConfigError: when `output` holds something, nothing is asked for, or the converter is missing.
        ModelError: when the model cannot be loaded.
        MergeError: when what was written says something else than the model.
        ConversionError: when the converter fails.

    Example:
        >>> export_model("runs/first", Path("served"), gguf="q8_0").gguf  # doctest: +SKIP
        PosixPath('served/first-q8_0.gguf')
    """
    if not merge and gguf is None:
        raise ConfigError("nothing to export: ask for a merged folder (--merge), a GGUF file (--gguf), or both")
    converter = find_converter(llama_cpp) if gguf else None
    steps = 1 + bool(gguf)
    with _written_aside(output) as draft, tempfile.TemporaryDirectory(prefix=".merged-", dir=draft.parent) as passing:
        whole = draft if merge else Path(passing)
        progress("export", 0, steps, "merging")
        merged = write_merged(name, whole, dtype if merge else "float32")
        file = None
        if converter is not None and gguf is not None:
            progress("export", 1, steps, f"converting to {gguf}")
            file = output / f"{_title(name)}-{gguf}.gguf"
            template = str(merged.loaded.tokenizer.chat_template)
            convert(whole, draft / file.name, gguf, converter=converter, title=_title(name), chat_template=template)
        jsonl.write_text(draft / "README.md", _readme(name, output, merged, file, merge))
        progress("export", steps, steps, "done")
    return Exported(output, merged, file)


@contextmanager
def _written_aside(output: Path) -> Iterator[Path]:
    """A draft folder that becomes `output` at the end.

    Raises:
        ConfigError: when there is something else already.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"output {output} exists and is not an empty folder; give another one")
    output = output.resolve()  # `.` and a link cannot be renamed to
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as aside:
        draft = Path(aside) / "new"
        draft.mkdir()
        yield draft
        if output.exists():
            output.rmdir()
        draft.rename(output)


def _title(name: str) -> str:
    """A file name for the model: the run's folder, or the last part of an id."""
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        return path.parent.name if path.name in ("adapter", "model") else path.name
    return name.rsplit("/", 1)[-1]


def _readme(name: str, output: Path, merged: Merged, file: Path | None, kept: bool) -> str:
    loaded = merged.loaded
    made = f"with its {merged.adapter} adapter merged in float32" if merged.adapter else "no adapter to merge"
    lines = [f"# {_title(name)}, ready to serve", "", f"From `{name}`, {made}.", ""]
    if kept:
        lines += [
            f"Weights: {merged.dtype}. Largest difference of a logit from the model it was made of: "
            f"{merged.difference:.3g} (rounding explains up to {merged.bound:.3g}).",
            "",
        ]
        model_type = str(loaded.model.config.model_type)
        lines += serve_model(str(output.resolve()), loaded.tokenizer, loaded.template.tool_format, model_type)
    if file is not None:
        lines += ["", "With llama.cpp:", "", *serve_gguf(file.resolve())]
    return "\n".join(lines) + "\n"
