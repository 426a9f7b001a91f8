from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent._version import __version__
from sage.libs.finetune.agent.cli.main import COMMANDS
from sage.libs.finetune.agent.cli.options import build_config, flags_given
from sage.libs.finetune.agent.config import AgentSFTConfig, Config, option
from sage.libs.finetune.agent.errors import ConfigError

NAMES = [command.name for command in COMMANDS]


def test_parsing_loads_nothing_heavy() -> None:
    """One process for all commands: what one `--help` loads would still be loaded after the next."""
    script = f"""
import sys
from sage.libs.finetune.agent.cli.main import main
assert main(["--help"]) == 0
for name in {NAMES!r}:
    assert main([*name.split(), "--help"]) == 0
    assert main([*name.split(), "--no-such-flag"]) == 2
loaded = {{"torch", "transformers", "trl", "numpy", "peft", "scipy", "openai", "ray", "pyarrow"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"Usage: sage-finetune {name}" in done.stdout for name in NAMES)


def test_the_version_and_help(cli: Any) -> None:
    assert cli("--version") == (0, f"sage-finetune {__version__}\n", "")
    code, out, err = cli("--help")
    assert (code, err) == (0, "") and all(name.split()[0] in out for name in NAMES)
    assert cli() == (2, out, "")


def test_help_tells_defaults_and_hides_aliases(cli: Any) -> None:
    text = " ".join(cli("train", "--help").out.split())
    assert "LoRA rank [16]" in text
    assert "AdamW weight decay [0.0]" in text
    assert "--lr-scheduler-type linear|cosine|constant" in text
    assert "(embedded) [required]" in text
    assert "--num-train-epochs" not in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (see sage-finetune --help)"),
        (
            ["train", "--batch-sise", "2"],
            "No such option: --batch-sise; did you mean '--batch-size'? (see sage-finetune train --help)",
        ),
        (["env", "--zzz"], "No such option: --zzz (see sage-finetune env --help)"),
        (["env", "more"], "Got unexpected extra argument(s) (more) (see sage-finetune env --help)"),
        (
            ["train", "--base-model", "m"],
            "train: --train-data must be given, here or in a file (--config FILE)",
        ),
        (["filter"], "filter: INPUT and --output must be given, here or in a file (--config FILE)"),
        (
            ["filter", "a", "-o", "b", "--min-reward", "much"],
            "filter: command line: 'min_reward': expected a number, found 'much'",
        ),
        (["filter", "a", "-o", "a"], "filter: command line: 'output' is the input file; give another name"),
        (
            ["train", "--model", "m", "--base-model", "n"],
            "train: --model and --base-model are the same setting; give one of them",
        ),
        (
            ["collect", "-c", "none.yaml"],
            "collect: none.yaml: cannot be read (No such file or directory); give the path of a YAML file",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(cli: Any, arguments: list[str], line: str) -> None:
    assert cli(*arguments) == (2, "", f"error: {line}\n")


def test_a_wrong_setting_in_a_file_names_the_file(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base_model: m\ntrain_data: d\nbatch_sise: 2\n")
    assert cli("train", "--config", "run.yaml") == (
        2,
        "",
        "error: train: run.yaml: unknown setting 'batch_sise'; did you mean 'batch_size'?\n",
    )


@dataclass
class Settings(Config):
    data: str = option(help="rows")
    rate: float = option(0.1, "rate", aliases=("learning_rate",))
    sure: bool = option(True, "sure", aliases=("certain",))
    limit: int | None = option(None, "limit")


def test_flags_win_over_the_file_and_aliases_are_the_same_setting(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: d\nlearning_rate: 1e-3\ncertain: false\n")
    assert build_config(Settings, file, {}) == Settings("d", rate=1e-3, sure=False)
    typed = {"rate": "0.5", "learning_rate": None, "certain": True, "data": None, "sure": None, "limit": "none"}
    given = flags_given(Settings, typed)
    assert given == {"rate": "0.5", "sure": True, "limit": "none"}
    assert build_config(Settings, file, given) == Settings("d", rate=0.5, sure=True)
    with pytest.raises(ConfigError, match=r"run.yaml and flags: 'rate': expected a number, found 'fast'"):
        build_config(Settings, file, {"rate": "fast"})


def test_every_setting_of_training_can_be_typed(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags written with underscores, as other trainers spell them, count too."""
    seen: list[Any] = []
    monkeypatch.setattr("sage.libs.finetune.agent.cli.main._execute", lambda parsed: seen.append(parsed) or 0)
    cli("train", "--model", "m", "--train_data", "d", "--num_train_epochs=2", "--no-use-peft", "--use-dora")
    given = flags_given(seen[0].command.config, seen[0].typed)
    assert given == {"base_model": "m", "train_data": "d", "num_epochs": "2", "use_lora": False, "use_dora": True}
    assert {*vars(AgentSFTConfig("m", "d"))} <= {*seen[0].typed}


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"]])
def test_a_reader_that_left_is_no_error_worth_a_word(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "sage.libs.finetune.agent.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
