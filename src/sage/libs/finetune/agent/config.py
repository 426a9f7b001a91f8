"""Configuration: dataclasses that validate themselves and do no I/O when built. Standard library and PyYAML only.

Every field carries its help text, range and aliases, so that YAML files, command-line flags and `--help` come from one
place. A setting that nothing knows is an error with "did you mean"; all faults of a config are reported at once.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion


def option(default: Any = MISSING, help: str = "", **checks: Any) -> Any:
    """A config field. `checks`: `low`, `high` (inclusive), `above`, `below` (exclusive), `aliases` (other names)."""
    return field(default=default, metadata={"help": help, **checks})


class Config:
    """Base of all configs: validation, YAML, plain dicts. Subclasses are dataclasses whose fields are `option`s."""

    def __post_init__(self) -> None:
        faults = []
        own: Any = type(self)
        for spec in fields(own):
            try:
                setattr(self, spec.name, _checked(spec, getattr(self, spec.name), _hints(own)[spec.name]))
            except ConfigError as error:
                faults.append(str(error))
        faults += self.conflicts() if not faults else []
        if faults:
            raise ConfigError("; ".join(faults))

    def conflicts(self) -> list[str]:
        """Faults that involve more than one field; each a line naming the fields and the remedy."""
        return []

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Build one from plain values; aliases are accepted, unknown names are errors.

        Raises:
            ConfigError: naming `where`, every faulty field, what was expected and found.
        """
        known = {spec.name: spec for spec in fields(cls)}  # type: ignore[arg-type]
        aliases = {alias: name for name, spec in known.items() for alias in spec.metadata.get("aliases", ())}
        chosen: dict[str, Any] = {}
        faults = []
        for key, value in values.items():
            name = aliases.get(key, key)
            if name not in known:
                faults.append(f"unknown setting '{key}'; {suggestion(str(key), [*known, *aliases])}")
            elif name in chosen:
                faults.append(f"'{key}' and '{name}' are the same setting; give one of them")
            chosen[name] = value
        missing = [n for n, s in known.items() if s.default is s.default_factory is MISSING and n not in chosen]
        faults += [f"'{name}' is required" for name in missing]
        if faults:
            raise ConfigError(f"{where}: {'; '.join(fault.rstrip('; ') for fault in faults)}")
        try:
            return cls(**chosen)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> Self:
        """Read a YAML mapping; `overrides` win over the file.

        Raises:
            ConfigError: when the file is missing, is no mapping, or holds a faulty setting.
        """
        return cls.from_dict({**read_yaml(path), **overrides}, where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values (paths as text); `from_dict` is its inverse."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}  # type: ignore[arg-type]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: naming the file, when it cannot be read, is not YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a YAML mapping (name: value), found {type(content).__name__}")
    return content


CORESET_STRATEGIES = (
    "hybrid", "loss_topk", "diversity", "random", "ifd", "ifd_diversity", "ccs", "facility_location", "kcenter",
)  # fmt: skip
"""The strategies of `selection.coreset` that need nothing but the rows and a model."""


@dataclass
class AgentSFTConfig(Config):
    """Settings of supervised fine-tuning; the reference's names, then ours.

    Example:
        >>> config = AgentSFTConfig(base_model="Qwen/Qwen2.5-1.5B-Instruct", train_data="agent_sft:train")
        >>> config.lora_r, config.learning_rate
        (16, 2e-05)
        >>> AgentSFTConfig.from_dict({"base_model": "m", "train_data": "d", "lora_rank": 8})
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: config: unknown setting 'lora_rank'; did you mean 'lora_r'?
    """

    base_model: str = option(
        help="model id, folder, or smollm2-135m-instruct (embedded)", aliases=("model_name_or_path", "model")
    )
    train_data: str = option(
        help="JSONL file or reference such as agent_sft:train; several as a.jsonl:0.7,b.jsonl:0.3 are mixed by weight",
        aliases=("dataset_name",),
    )
    eval_data: str | None = option(None, "the same, for evaluation after training", aliases=("eval_dataset",))
    output_dir: Path = option(Path(".sage/finetune/"), "run folder")
    num_epochs: int = option(3, "passes over the training rows", low=1, aliases=("num_train_epochs",))
    batch_size: int = option(8, "rows per device and step", low=1, aliases=("per_device_train_batch_size",))
    learning_rate: float | Literal["auto"] = option(
        2e-5, "peak learning rate, or auto (by method and model size)", above=0.0
    )
    gradient_accumulation_steps: int = option(4, "batches per optimiser step", low=1)
    max_seq_length: int = option(
        2048, "longest row in tokens; see truncation for longer ones", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    use_lora: bool = option(True, "train LoRA adapters; false trains all weights", aliases=("use_peft",))
    lora_r: int = option(16, "LoRA rank", low=1)
    lora_alpha: int = option(32, "LoRA alpha; the update is scaled by alpha / r", low=1)
    use_dora: bool = option(False, "DoRA: LoRA with learned magnitudes")
    use_lora_plus: bool = option(False, "LoRA+: a higher learning rate for B")
    lora_plus_lr_ratio: float = option(16.0, "LoRA+: learning rate of B over that of A", above=0.0)
    use_coreset_selection: bool = option(False, "select a coreset before training")
    coreset_strategy: str = option("hybrid", f"how to select it: {', '.join(CORESET_STRATEGIES)}")
    coreset_target_size: int | None = option(None, "rows to keep; 1000 by default", low=1)
    use_online_continual: bool = option(False, "mix batches with replayed rows")
    continual_buffer_size: int = option(2048, "rows the replay buffer holds", low=1)
    continual_replay_ratio: float = option(0.25, "replayed rows per new row", low=0.0)
    coreset_scorer: str | None = option(None, "another model that computes the losses; the base model by default")
    continual_strategy: Literal["reservoir", "balanced", "ring", "surprise"] = option(
        "reservoir", "which rows the buffer keeps: a uniform sample, equal shares of tasks, the newest, the hardest"
    )
    continual_buffer_path: Path | None = option(
        None, "replay_buffer folder that an earlier run left; this run goes on with it"
    )
    max_steps: int | None = option(None, "stop after this many optimiser steps; the schedule ends there", low=1)
    lora_dropout: float = option(0.0, "dropout on the adapters' input", low=0.0, high=1.0)
    lora_target_modules: str = option("all-linear", "all-linear, or module names separated by commas")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = option("linear", "schedule after the warm-up")
    warmup_ratio: float = option(0.03, "share of the steps that warm up", low=0.0, high=1.0)
    weight_decay: float = option(0.0, "AdamW weight decay", low=0.0)
    adam_beta2: float = option(
        0.999, "AdamW's memory of squared gradients; 0.98 suits runs of few steps", above=0.0, below=1.0
    )
    max_grad_norm: float = option(1.0, "gradient clipping", above=0.0)
    tool_format: Literal["auto", "compact", "json"] = option(
        "auto", "how our chat template shows tools; auto keeps the model's own template if it renders tools"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "base weights; auto is bfloat16 where the processor computes in it"
    )
    save_steps: int = option(100, "checkpoint every so many optimiser steps", low=1)
    save_total_limit: int = option(2, "checkpoints kept", low=1)
    eval_batch_size: int = option(32, "rows generated at once", low=1, aliases=("per_device_eval_batch_size",))
    max_new_tokens: int = option(128, "longest reply in evaluation, in tokens", low=1)
    seed: int = option(0, "fixes adapter initialisation, row order and dropout", low=0, high=2**32 - 1)
    truncation: Literal["drop", "windows"] = option(
        "drop", "longer rows lose their oldest exchanges, or are split into windows that train each turn once"
    )
    allow: str | None = option(None, "kinds of faults in rows to let through, separated by commas (data validate)")
    row_order: Literal["shuffled", "grouped"] = option(
        "shuffled", "shuffled: a step is a random draw of rows; grouped: each batch draws from rows that begin alike"
    )
    share_prefixes: bool = option(True, "compute once what rows of a batch have in common; the same gradient, faster")
    packing: bool = option(False, "a batch is batch_size bins of max_seq_length tokens, filled with whole rows")
    gradient_checkpointing: Literal["auto"] | bool = option(
        "auto", "recompute activations in the backward pass; auto: only if memory would not suffice"
    )
    load_in_4bit: bool = option(False, "base weights in 4 bits (bitsandbytes, CUDA)")
    load_in_8bit: bool = option(False, "base weights in 8 bits (bitsandbytes, CUDA)")
    use_rslora: bool = option(False, "rsLoRA: scale the update by alpha / sqrt(r)")
    init_lora_weights: Literal["default", "pissa"] = option(
        "default", "pissa: adapters start from the principal singular vectors of the weights"
    )
    eval_steps: int | None = option(None, "evaluate on eval_data every so many optimiser steps", low=1)
    eval_rows: int = option(32, "rows of eval_data whose turns are asked for during training; 0: loss only", low=0)
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = option("none", "also log to this tracker")
    run_name: str | None = option(None, "name of the run in the tracker; the run folder's name by default")
    mixing_strategy: Literal["weighted", "proportional", "temperature", "balanced"] = option(
        "weighted", "shares of several data sets: their weights, their sizes, powers of these, or equal ones"
    )
    mixing_size: int | None = option(
        None, "rows of the mix, repeats counted; by default as many as bring in every row once", low=1
    )
    mixing_temperature: float = option(2.0, "temperature: shares are sizes to the power of 1 / it", above=0.0)
    mixing_max_repeats: float = option(4.0, "how often a mix may repeat a row at most; it is smaller then", low=1.0)

    def __post_init__(self) -> None:
        self.train_data = _one_text("train_data", self.train_data)
        super().__post_init__()

    def conflicts(self) -> list[str]:
        """Variants of LoRA need LoRA; a name with nothing in it names no model or data."""
        faults = [
            f"'{name}' needs use_lora: true"
            for name in ("use_dora", "use_lora_plus", "use_rslora", "load_in_4bit", "load_in_8bit")
            if getattr(self, name) and not self.use_lora
        ]
        if self.init_lora_weights == "pissa":
            faults += [] if self.use_lora else ["'init_lora_weights' needs use_lora: true"]
            faults += [
                f"'init_lora_weights': pissa cannot be combined with {name}; give one of them"
                for name in ("use_dora", "load_in_4bit", "load_in_8bit")
                if getattr(self, name)
            ]
        if self.load_in_4bit and self.load_in_8bit:
            faults.append("'load_in_4bit' and 'load_in_8bit' exclude each other; give one")
        if self.eval_steps is not None and self.eval_data is None:
            faults.append("'eval_steps' needs eval_data")
        if self.coreset_strategy == "rds":
            faults.append(
                "'coreset_strategy': rds needs examples of what is wanted; choose the rows with `sage-finetune select "
                "--strategy rds --wanted FILE` and train on what it writes"
            )
        elif self.coreset_strategy not in CORESET_STRATEGIES:
            known = f"{suggestion(self.coreset_strategy, CORESET_STRATEGIES)}known: {', '.join(CORESET_STRATEGIES)}"
            faults.append(f"'coreset_strategy': unknown strategy '{self.coreset_strategy}'; {known}")
        named = {name: getattr(self, name) for name in ("base_model", "train_data", "eval_data")}
        faults += [f"'{name}' is empty" for name, value in named.items() if value is not None and not value.strip()]
        return faults


def _one_text(name: str, given: Any) -> Any:
    """Several data sets as text; YAML has them as a list of texts, or a mapping of reference to weight (or null)."""
    if not isinstance(given, Mapping | list | tuple):
        return given
    pairs = list(given.items()) if isinstance(given, Mapping) else [(reference, None) for reference in given]
    for reference, weight in pairs:
        number = _convert(weight, float)
        if not isinstance(reference, str) or "," in reference or not (weight is None or isinstance(number, float)):
            raise ConfigError(
                f"'{name}': expected references without a comma and a number for each weight, found "
                f"{_shown({reference: weight} if isinstance(given, Mapping) else reference)}"
            )
    return ", ".join(
        reference if weight is None else f"{reference}:{_convert(weight, float)!r}" for reference, weight in pairs
    )


@cache  # of a class, whatever its instances are
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _checked(spec: Field[Any], value: Any, hint: Any) -> Any:
    """The value in the field's type and range, or a ConfigError about it."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    choices = tuple(sorted(choices, key=lambda choice: choice is not types.NoneType))  # a flag's "none" is None
    for choice in choices:
        converted = _convert(value, choice)
        if converted is not _NO:
            break
    else:
        expected = " or ".join(_name(choice) for choice in sorted(choices, key=lambda c: c is types.NoneType))
        raise ConfigError(f"'{spec.name}': expected {expected}, found {_shown(value)}")
    number = converted if isinstance(converted, int | float) and not isinstance(converted, bool) else None
    low, high, above, below = (spec.metadata.get(bound) for bound in ("low", "high", "above", "below"))
    if number is None:
        return converted
    if isinstance(number, int):
        high = _LARGEST if high is None else high
        low = -_LARGEST if low is None else low
    if low is not None and number < low:
        raise ConfigError(f"'{spec.name}': must be at least {low}, not {_shown(number)}")
    if high is not None and number > high:
        raise ConfigError(f"'{spec.name}': must be at most {high}, not {_shown(number)}")
    if above is not None and number <= above:
        raise ConfigError(f"'{spec.name}': must be above {above:g}, not {number}")
    if below is not None and number >= below:
        raise ConfigError(f"'{spec.name}': must be below {below:g}, not {number}")
    return converted


_NO = object()
_LARGEST = 2**63 - 1
"""Whole numbers beyond it fit no counter of the libraries underneath."""
_WORDS = {"true": True, "false": False, "yes": True, "no": False}


def _convert(value: Any, hint: Any) -> Any:
    """The value as `hint`, or `_NO`. Text (flags; YAML's `1e-3`) is read as numbers and switches."""
    if typing.get_origin(hint) is Literal:
        return value if value in typing.get_args(hint) else _NO
    if hint is Any:
        return value
    if typing.get_origin(hint) is list:  # text is a list separated by commas
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        return _all_converted(items, typing.get_args(hint)[0]) if isinstance(items, list | tuple) else _NO
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            return _NO
        found = _all_converted([*value.values()], typing.get_args(hint)[1])
        return _NO if found is _NO else dict(zip(value, found, strict=True))
    if hint is types.NoneType:
        return None if value in (None, "none", "null") else _NO
    if hint is bool:
        return value if isinstance(value, bool) else _WORDS.get(str(value).lower(), _NO)
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) else _NO
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return _NO
        try:
            # A float would round a whole number above 2**53, so only a float becomes one on its way to int.
            number = float(value) if hint is float else int(value)
        except (ValueError, OverflowError):  # no number; inf and nan as int; too large for a float
            return _NO
        whole = hint is float or isinstance(value, str) or number == value
        return number if whole and (hint is int or math.isfinite(number)) else _NO
    return value if isinstance(value, hint) else _NO


def _all_converted(values: Sequence[Any], hint: Any) -> Any:
    """The values as `hint`, or `_NO` when one of them is none."""
    found = [_convert(value, hint) for value in values]
    return _NO if any(value is _NO for value in found) else found


def _shown(value: Any) -> str:
    """The value for a message, with the middle of a very long one left out."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-20:]}"


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return f"a list of {_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return f"a mapping of {' to '.join(_name(of) for of in typing.get_args(hint))}"
    names = {types.NoneType: "null", int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return {**names, Path: "a path", Any: "anything"}.get(hint, str(hint))
