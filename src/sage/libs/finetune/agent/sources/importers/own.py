"""This package's own trajectories, as `collect` writes them: the conversation keeps every field (see `chatml`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer
from sage.libs.finetune.agent.types import AgentTrajectory


def _matches(row: Mapping[str, Any]) -> bool:
    return "task_id" in row and "instruction" in row and isinstance(row.get("steps"), list)


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    trajectory = AgentTrajectory.from_dict(row, where)
    if not trajectory.steps:
        raise DataError(f"{where}: steps: expected at least one step, found none; there is nothing to train on")
    try:
        return to_chatml(trajectory)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


OWN = Importer(
    name="trajectory",
    matches=_matches,
    read=_read,
    needs="{'task_id': ..., 'instruction': ..., 'steps': [{'thought', 'action', 'action_input', 'observation'}]}",
)
