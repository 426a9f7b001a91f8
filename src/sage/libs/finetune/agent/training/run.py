"""The run folder: what a training run leaves behind, so that it can be read, repeated, resumed and served.

config.yaml          resolved settings          data.json        manifest of the rows, with hashes
metrics.jsonl        one line a step            versions.json    of everything that computes
checkpoints/         to resume from             adapter/         PEFT layout, tokenizer and template beside it
chat_template.jinja  what training rendered     result.json      what came of it
README.md            model card                 learning_curve.png
coreset.json         which rows were selected   replay_buffer/   for a later run (continual_buffer_path)
rl_curve.png         of a run of reinforcement  samples/         episodes it played
"""

from __future__ import annotations

import platform
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import yaml

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent._version import __version__
from sage.libs.finetune.agent.config import AgentSFTConfig, read_yaml
from sage.libs.finetune.agent.errors import ConfigError, DataError

CORESET = "coreset.json"
REPLAY_BUFFER = "replay_buffer"
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy", "jinja2", "trl")
_MAY_DIFFER = ("output_dir", "eval_data", "eval_batch_size", "max_new_tokens", "save_steps", "save_total_limit",
               "gradient_checkpointing", "eval_steps", "eval_rows", "report_to", "run_name")  # fmt: skip
_MAY_DIFFER_IN_RL = (
    "output_dir", "eval_batch_size", "save_steps", "save_total_limit", "sample_every", "report_to", "run_name",
)  # fmt: skip


class RunConfig(Protocol):
    """The settings of a run of any kind: a `Config` with a run folder, all other settings having defaults."""

    output_dir: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""


def claim_folder(config: RunConfig, resume: bool) -> Path:
    """The folder this run writes to.

    The default `output_dir` gets a new numbered folder per run; one that was named is used as it is. A folder that
    holds a run is never overwritten: it is resumed, or refused.

    Raises:
        ConfigError: when the folder cannot be written to, holds a run and `resume` is False, when there is nothing to
            resume, or when the run there was made with other settings.
    """
    folder = config.output_dir
    if folder == type(config).output_dir:
        folder = numbered_run(folder, "config.yaml", resume)
    settings = folder / "config.yaml"
    try:
        jsonl.check_output(settings)
    except DataError as error:
        raise ConfigError(f"'output_dir': {error}") from error
    if resume and not settings.exists():
        raise ConfigError(f"{folder} holds no run to resume (no config.yaml); start without resume")
    if not resume and settings.exists():
        raise ConfigError(f"{folder} holds a run already; resume it (--resume), or give another output_dir")
    if resume:
        _require_same(read_yaml(settings), config, settings)
    return folder


def numbered_run(parent: Path, mark: str, resume: bool) -> Path:
    """`run-0001`, `run-0002` ...: the newest that holds the file `mark` to resume, or the next one.

    A folder without the mark is a start that came to nothing; it is used again.
    """
    runs = {int(p.name[4:]): p for p in parent.glob("run-*") if p.name[4:].isdecimal() and (p / mark).exists()}
    newest = max(runs, default=0)
    return runs[newest] if resume and runs else parent / f"run-{newest + 1:04d}"


def write_start(folder: Path, config: RunConfig, data: dict[str, Any], coreset: dict[str, Any] | None = None) -> None:
    """What is known before the first step; only now is there a folder, so a start that fails leaves none.

    config.yaml comes last: a folder that has it is a run, and a run with a coreset knows its rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if coreset is not None:
        jsonl.write_json(folder / CORESET, coreset)
    jsonl.write_json(folder / "data.json", data)
    jsonl.write_json(folder / "versions.json", versions())
    jsonl.write_text(folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))


def versions() -> dict[str, str]:
    """Versions of this package, Python, the platform and the packages that compute; absent ones are left out."""
    found = {"sage-libs": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _require_same(before: dict[str, Any], config: RunConfig, where: Path) -> None:
    now = config.to_dict()
    supervised = isinstance(config, AgentSFTConfig)
    if supervised == ("algorithm" in before):
        raise ConfigError(f"{where}: the run there is of another kind; give another output_dir")
    defaults = {spec.name: spec.default for spec in fields(config) if spec.default is not MISSING}  # type: ignore[arg-type]
    before = {**{name: _plain(value) for name, value in defaults.items()}, **before}  # of a version with fewer settings
    may_differ = _MAY_DIFFER if supervised else _MAY_DIFFER_IN_RL
    changed = [
        f"{name} was {before.get(name)!r} and is {now[name]!r}"
        for name in now
        if name not in may_differ and before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(f"{where}: the run cannot be resumed with other settings: {'; '.join(changed)}")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
