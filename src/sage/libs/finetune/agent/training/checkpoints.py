"""Checkpoints of a run: where they are, and which of them is whole."""

from __future__ import annotations

import json
from pathlib import Path

CHECKPOINTS = "checkpoints"


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run; one that was being written when the run died does not count."""
    found = [path for path in (output_dir / CHECKPOINTS).glob("checkpoint-*") if _is_complete(path)]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _is_complete(checkpoint: Path) -> bool:
    """Trainer writes the state last, so a state that can be read says that all the rest is there."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
