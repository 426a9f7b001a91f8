"""Importing the package and asking for help is quick: nothing heavy is loaded, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sage.libs.finetune.agent as agent

HEAVY = ("torch", "transformers", "trl", "numpy", "peft", "scipy", "accelerate")
PACKAGE = "import sage.libs.finetune.agent as agent; dir(agent)"
VOCABULARY = (
    "from sage.libs.finetune.agent import AgentSFTConfig, AgentTrajectory, ConfigError; AgentSFTConfig('m', 'd')"
)
HELP = """
from sage.libs.finetune.agent.cli.main import main
sys.argv = ["sage-finetune", {arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(PACKAGE, id="package"),
        pytest.param(VOCABULARY, id="vocabulary"),
        pytest.param(HELP.format(arguments='"--help"'), id="help"),
        pytest.param(HELP.format(arguments='"train", "--help"'), id="train-help"),
        pytest.param(HELP.format(arguments='"--version"'), id="version"),
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    report = f"print('LOADED', *sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("name", agent.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(agent, name) is not None
    assert name in dir(agent)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AgentSFTTrainr'"):
        agent.AgentSFTTrainr  # noqa: B018
