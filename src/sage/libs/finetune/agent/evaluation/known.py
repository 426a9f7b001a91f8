"""The capabilities that are known by name, each with its scorer."""

from __future__ import annotations

from sage.libs.finetune.agent.evaluation.score import Capability
from sage.libs.finetune.agent.evaluation.scorers import (
    instruction_following,
    planning,
    reasoning,
    timing,
    tool_use,
)
from sage.libs.finetune.agent.registry import Registry

CAPABILITIES = Registry[Capability]("capability")
"""What `AgentCapabilityEvaluator` can measure without a scorer of one's own."""
for _scorer in (tool_use, planning, reasoning, instruction_following, timing):
    CAPABILITIES.add(_scorer.CAPABILITY.name, _scorer.CAPABILITY)
