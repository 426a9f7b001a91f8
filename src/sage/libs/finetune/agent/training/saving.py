"""Checkpoints of transformers' `Trainer` as ours: whole before they can be seen, checked before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sage.libs.finetune.agent.models.adapters import require_finite
from sage.libs.finetune.agent.training.checkpoints import CHECKPOINTS, Stateful, drafted, write_states
from sage.libs.finetune.agent.training.processes import first_of_all

if TYPE_CHECKING:
    from transformers import Trainer

    Base = Trainer
else:
    Base = object


class DraftedCheckpoints(Base):
    """To be put before a `Trainer`: its `_save_checkpoint` writes a draft (see `training/checkpoints.py`).

    Attributes:
        run_folder: Whose `checkpoints/` they go to.
        save_total_limit: How many are kept.
        kept: What a checkpoint holds beside the model and what `Trainer` keeps, by name.
        steps_before: Optimiser steps of the trainers that this one follows in the same run, which
            checkpoints count too; for one process.
    """

    run_folder: Path
    save_total_limit: int
    kept: dict[str, Stateful]
    steps_before: int = 0
    _draft: Path | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        arguments, trained = self.args, cast(torch.nn.Module, self.model)
        step = self.steps_before + self.state.global_step
        require_finite(trained, step)
        folder, keep = self.run_folder / CHECKPOINTS, self.save_total_limit
        with drafted(folder, step, keep, arguments.process_index, arguments.world_size, first_of_all) as draft:
            self._draft = draft.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._draft = None
            if self.steps_before:  # Trainer knows its own steps only
                (draft.parent / f"checkpoint-{self.state.global_step}").rename(draft)
            write_states(draft, self.kept, arguments.process_index)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._draft or super()._get_output_dir(trial))
