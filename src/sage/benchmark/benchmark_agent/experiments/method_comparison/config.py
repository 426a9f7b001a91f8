"""What a method of the comparison is: which parts of the library it trains with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.config import AgentSFTConfig, Config, option
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion

_SETTABLE = (
    "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "use_lora", "lora_r", "lora_alpha",
    "lora_dropout", "lora_target_modules", "lora_plus_lr_ratio", "use_rslora", "init_lora_weights", "load_in_4bit",
    "load_in_8bit", "dtype", "lr_scheduler_type", "warmup_ratio", "weight_decay", "adam_beta2", "max_grad_norm",
    "share_prefixes", "save_steps",
)  # fmt: skip
"""What a method may set of a training run. The rest says which rows there are, how many tokens are trained on and how
the result is measured, and is one for all methods."""


@dataclass
class MethodConfig(Config):
    """One training method; the reference's names, then ours.

    Every method has the same model, the same rows to choose from and the same number of tokens to train on; what is
    switched on here is what it does otherwise.

    Example:
        >>> custom = MethodConfig(
        ...     name="My Method", description="Custom combination", use_dora=True, use_continual=True,
        ...     continual_buffer_size=4096,
        ... )
        >>> custom.use_dora, custom.use_coreset
        (True, False)
        >>> MethodConfig("Low rank", use_dora=True, settings={"lora_r": 4, "lora_alpha": 8}).settings["lora_r"]
        4
    """

    name: str = option(help="display name")
    description: str = option("", "what it does, in a sentence")
    use_coreset: bool = option(False, "train on a coreset of the rows, as often as the budget allows")
    coreset_strategy: str = option("hybrid", "how it is selected")
    use_continual: bool = option(False, "the tasks come one after another, with replay")
    use_dora: bool = option(False, "DoRA: LoRA with learned magnitudes")
    use_lora_plus: bool = option(False, "LoRA+: a higher learning rate for B")
    use_trajectory_collection: bool = option(False, "FireAct: train on trajectories that the method collects itself")
    use_multi_task: bool = option(False, "AgentTuning: agent rows and general rows in the proportion of eta")
    coreset_share: float = option(0.4, "largest share of the rows that a coreset keeps", above=0.0, high=1.0)
    continual_buffer_size: int = option(2048, "rows the replay buffer holds", low=1)
    continual_replay_ratio: float = option(0.25, "replayed rows per new row", low=0.0)
    continual_strategy: str = option("balanced", "which rows the buffer keeps")
    eta: float = option(0.2, "share of agent rows with use_multi_task", low=0.0, high=1.0)
    settings: dict[str, Any] = field(default_factory=dict)

    def conflicts(self) -> list[str]:
        """Settings that no training run has or no method may change, and parts that exclude each other."""
        faults = [
            f"'settings': '{name}' is not for a method to set; {suggestion(name, _SETTABLE)}a method may set: "
            f"{', '.join(_SETTABLE)}"
            for name in self.settings
            if name not in _SETTABLE
        ]
        if self.use_trajectory_collection and (self.use_coreset or self.use_continual or self.use_multi_task):
            faults.append("'use_trajectory_collection' trains on its own trajectories alone; leave the others out")
        if self.use_multi_task and self.use_continual:
            faults.append("'use_multi_task' and 'use_continual' exclude each other: tasks are mixed, or come in turn")
        if self.use_multi_task and self.use_coreset:
            faults.append("'use_multi_task' and 'use_coreset' exclude each other: a coreset would not keep eta")
        return faults or self._faults_of_a_run()

    def _faults_of_a_run(self) -> list[str]:
        try:
            AgentSFTConfig(
                base_model="-", train_data="-", use_dora=self.use_dora, use_lora_plus=self.use_lora_plus,
                coreset_strategy=self.coreset_strategy, continual_strategy=self.continual_strategy,  # type: ignore[arg-type]
                **self.settings,
            )  # fmt: skip
        except ConfigError as error:
            return [str(error)]
        return []
