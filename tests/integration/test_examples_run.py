"""The scripts in `examples/` do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_tools() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "own_tools.py"], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first == "kept 3 of 4 episodes, 1 failed", done.stderr
    assert second.startswith("3 of 3 rows are fit to train on: ")
