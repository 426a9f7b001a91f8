"""The instructions that can be verified, by their published id."""

from __future__ import annotations

from sage.libs.finetune.agent.evaluation.instructions import casing, formats, framing, keywords, length
from sage.libs.finetune.agent.evaluation.instructions.check import Check
from sage.libs.finetune.agent.registry import Registry

INSTRUCTIONS = Registry[Check]("instruction")

for _checks in (keywords.CHECKS, length.CHECKS, formats.CHECKS, framing.CHECKS, casing.CHECKS):
    for _id, _check in _checks.items():
        INSTRUCTIONS.add(_id, _check)
