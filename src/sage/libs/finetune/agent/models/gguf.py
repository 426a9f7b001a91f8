"""A model folder as a GGUF file for llama.cpp, written by llama.cpp's own converter.

GGUF fixes names, orders and permutations of tensors, and how the tokenizer splits text, for each architecture; a file
that gets one of them wrong loads and talks nonsense. So nothing is written by hand here: `convert_hf_to_gguf.py` is
run in a process of its own, and what it wrote is opened once to see that our chat template is in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError

SCRIPT = "convert_hf_to_gguf.py"
ENVIRONMENT = "LLAMA_CPP"
_INSTALL = (
    "git clone https://github.com/ggml-org/llama.cpp && pip install sentencepiece protobuf, then give "
    f"--llama-cpp llama.cpp or set {ENVIRONMENT}"
)


class ConversionError(AgentFinetuneError, RuntimeError):
    """llama.cpp's converter failed, or wrote another file than was asked for."""


def find_converter(llama_cpp: Path | None = None) -> Path:
    """llama.cpp's converter: in `llama_cpp`, else in the folder that `LLAMA_CPP` names, else on PATH.

    Raises:
        ConfigError: when it is not there, with what to install.
    """
    named = llama_cpp or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if named is not None:
        script = named.expanduser() / SCRIPT
        if script.is_file():
            return script
        raise ConfigError(f"{named} holds no {SCRIPT}; give the folder of a llama.cpp checkout ({_INSTALL})")
    found = shutil.which(SCRIPT)
    if found is None:
        raise ConfigError(f"GGUF needs llama.cpp's {SCRIPT}, which is not on PATH; {_INSTALL}")
    return Path(found)


def convert(folder: Path, file: Path, outtype: str, *, converter: Path, title: str, chat_template: str) -> None:
    """Run the converter, and look at what came of it.

    Args:
        folder: An ordinary model folder without an adapter.
        file: The GGUF file to write.
        outtype: "f32", "f16", "bf16" or "q8_0".
        converter: The script, see `find_converter`.
        title: The model's name in the file.
        chat_template: What the file must carry.

    Raises:
        ConversionError: with the converter's last words; or when the file lacks the template.
    """
    command = [sys.executable, str(converter), str(folder), "--outfile", str(file), "--outtype", outtype]
    command += ["--model-name", title]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode or not file.is_file():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ConversionError(
            f"{converter} failed (exit {done.returncode}): {lines[-1] if lines else 'it says nothing'}"
        )
    found = _template_in(file)
    if found != chat_template:
        what = "no chat template" if found is None else "another chat template"
        raise ConversionError(f"{converter} wrote {what} into the file; take a newer llama.cpp")


def _template_in(file: Path) -> str | None:
    from gguf import GGUFReader

    try:
        field = GGUFReader(file).get_field("tokenizer.chat_template")
    except (ValueError, IndexError, KeyError) as error:
        raise ConversionError(f"{file.name} is no GGUF file ({error})") from error
    return None if field is None else str(field.contents())
