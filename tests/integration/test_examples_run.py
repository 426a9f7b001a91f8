"""The scripts in `examples/` do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tiny import save_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_tools() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "own_tools.py"], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first == "kept 3 of 4 episodes, 1 failed", done.stderr
    assert second.startswith("3 of 3 rows are fit to train on: ")


def test_evaluate_capabilities() -> None:
    command = [sys.executable, EXAMPLES / "evaluate_capabilities.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Agent Capability Report", "-" * 23], done.stderr
    assert lines[-1].startswith("Every reply, with what was wrong about it: ")


def test_rl_own_environment(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    call = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rl_own_environment as e; "
        "e.main(sys.argv[2], iterations=1, episodes_per_iteration=4, minibatch_episodes=2, dtype='float32')"
    )
    line = [sys.executable, "-c", call, EXAMPLES, tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("reward on 16 held-out tasks: "), done.stderr
