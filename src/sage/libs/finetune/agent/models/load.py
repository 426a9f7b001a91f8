"""From a name to a model that can be trained and asked: hub id, folder, saved adapter or the embedded default."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.models.embedded import EMBEDDED, embedded_model_folder
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.models.quantize import loading_options
from sage.libs.finetune.agent.tokenization.template import TemplateChoice, prepare_template

logger = logging.getLogger(__name__)

SMALL_MODEL = 1_000_000_000
"""Below so many parameters prompts are kept short (compact tools) and LoRA's automatic learning rate is higher."""


@dataclass
class LoadedModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: In evaluation mode; a `PeftModel` when the name was a saved adapter.
        tokenizer: With a chat template that can show tools.
        template: Whose template that is, and why.
        location: The folder or hub id the base weights came from.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: TemplateChoice
    location: str


def resolve_model(name: str) -> str:
    """The folder or hub id behind a name; the embedded model is unpacked on first use.

    Raises:
        ModelError: when the name is a path that is not there, or the embedded model's package is missing.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name == EMBEDDED:
        return str(embedded_model_folder())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model folder {name} does not exist; give a folder, a hub id, or {EMBEDDED}")
    return name


def load_model(
    name: str, *, dtype: str = "auto", tool_format: str = "auto", quantization: str | None = None
) -> LoadedModel:
    """Load a model and its tokenizer for inference or training.

    Args:
        name: Hub id, model folder, folder of a saved adapter (its base is loaded beneath it), or the embedded model.
        dtype: "float32", "bfloat16", or "auto": bfloat16 where the processor computes in it, else float32.
        tool_format: See `prepare_template`.
        quantization: "4bit" or "8bit" base weights (CUDA, bitsandbytes), None for those of `dtype`.

    Raises:
        ConfigError: when this machine cannot quantise.
        ModelError: when it cannot be found or loaded, or has no usable chat template.
    """
    options = loading_options(quantization, pick_dtype(dtype))
    location, base = _places(name)
    adapter = Path(location) / "adapter_config.json"
    with _loading(f"model {name}"):
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=pick_dtype(dtype),
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        model, report = loaded
        _require_whole(name, report)
        if adapter.exists():
            model = _with_adapter(model, location)
    template = prepare_template(tokenizer, tool_format, small_model=model.num_parameters() < SMALL_MODEL)
    logger.info("chat template: %s (%s)", template.source, template.reason)
    if quantization is None:  # quantised weights are on their device, and do not move
        model = model.to(pick_device())
    return LoadedModel(model.eval(), tokenizer, template, base)


def load_tokenizer(
    name: str, *, tool_format: str = "auto", local_only: bool = False
) -> tuple[PreTrainedTokenizerBase, TemplateChoice]:
    """The tokenizer with its chat template as `load_model` prepares them, without reading the weights.

    Args:
        name: As for `load_model`.
        tool_format: See `prepare_template`.
        local_only: Ask no hub; what is not on this machine is an error at once.

    Raises:
        ModelError: when there is no tokenizer or configuration, or no usable chat template.
    """
    location, base = _places(name)
    with _loading(f"the tokenizer of model {name}"):
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, local_files_only=local_only)
        small = _empty(base, local_only).num_parameters() < SMALL_MODEL
    template = prepare_template(tokenizer, tool_format, small_model=small)
    logger.info("chat template: %s (%s)", template.source, template.reason)
    return tokenizer, template


def empty_model(name: str) -> Any:
    """The model on the meta device: its layers and shapes, without weights and without their memory.

    Args:
        name: As for `load_model`; a saved adapter stands around its base.

    Raises:
        ModelError: when there is no configuration, or none of a causal language model.
    """
    with _loading(f"the configuration of model {name}"):
        location, base = _places(name)
        model = _empty(base)
        if (Path(location) / "adapter_config.json").exists():
            from peft import PeftConfig, get_peft_model

            settings = PeftConfig.from_pretrained(location)
            settings.inference_mode = False
            model = get_peft_model(model, settings)
        return model


def _empty(base: str, local_only: bool = False) -> Any:
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=local_only)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]


def pick_device() -> torch.device:
    """This process's CUDA device if there is one, else the CPU.

    Launchers of several processes number those of a machine in LOCAL_RANK; ACCELERATE_USE_CPU keeps to the CPU.
    """
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    number = os.environ.get("LOCAL_RANK")
    return torch.device("cuda") if number is None else torch.device("cuda", int(number))


def pick_dtype(dtype: str = "auto") -> torch.dtype:
    """The data type of base weights: "auto" is bfloat16 where the processor has instructions for it, else float32."""
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        native = bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def _places(name: str) -> tuple[str, str]:
    """Where the tokenizer (and adapter) and where the base weights of a model are: folders or hub ids."""
    location = resolve_model(name)
    location = _model_in(Path(location)) if Path(location).is_dir() else location
    adapter = Path(location) / "adapter_config.json"
    return location, resolve_model(_base_of(adapter)) if adapter.exists() else location


def _model_in(folder: Path) -> str:
    """The folder itself, or the `adapter` or `model` that a run folder holds."""
    for place in (folder, folder / "adapter", folder / "model"):
        if (place / "adapter_config.json").exists() or (place / "config.json").exists():
            return str(place)
    raise ModelError(f"{folder} holds neither config.json nor adapter_config.json; it is no model folder")


def _base_of(adapter_config: Path) -> str:
    config = jsonl.read_json(adapter_config)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base or not isinstance(base, str):
        raise ModelError(f"{adapter_config}: field 'base_model_name_or_path': expected the base model, found {base!r}")
    unpacked_elsewhere = not Path(base).exists() and Path(base).name.startswith(EMBEDDED)
    return EMBEDDED if unpacked_elsewhere else str(base)


def _require_whole(name: str, report: dict[str, Any]) -> None:
    """Layers without weights would be random, and training would go on without a word."""
    for what, keys in (("lacks", report["missing_keys"]), ("has other shapes for", report["mismatched_keys"])):
        if keys:
            first = sorted(map(str, keys))[0]
            raise ModelError(f"model {name} {what} {len(keys)} weights of its architecture, {first} among them")


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder}: adapter_model.safetensors is missing (adapters in other formats are not loaded)")
    adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
    replace_forwards(adapted)
    return adapted


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """A model's files are foreign, and what the libraries raise on a broken one may be anything: it becomes a line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{what} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    kind = "" if isinstance(error, OSError) or type(error) is ValueError else f"{type(error).__name__}: "
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return kind + (" ".join(lines) if lines[0].endswith(":") else lines[0])
