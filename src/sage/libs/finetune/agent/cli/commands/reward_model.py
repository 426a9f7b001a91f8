"""`reward-model`: a model that scores episodes, from pairs of which one side was preferred."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.cli.episodes import output_faults
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.training.rl.reward_training import RewardModelReport


@dataclass
class RewardModelConfig(Config):
    """Which pairs, which model to begin with, and how it is trained."""

    pairs: Path = option(help="file of pairs, as `sage-finetune preferences` writes them", positional=True)
    base_model: str = option(
        help="language model to begin with: run folder, adapter, model folder or model id",
        aliases=("model_name_or_path", "model"),
    )
    output: Path = option(help="folder of the reward model; must not be there yet, or be empty", short="o")
    num_epochs: int = option(1, "passes over the pairs", low=1)
    learning_rate: float = option(1e-5, "peak learning rate; all weights are trained", above=0.0)
    batch_size: int = option(8, "pairs in an optimiser step", low=1, aliases=("per_device_train_batch_size",))
    max_seq_length: int = option(
        2048, "longest conversation in tokens; a pair with a longer side is left out", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    held_out: float = option(0.1, "share of the pairs that is not trained on, to measure with", low=0.0, below=1.0)
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools")
    seed: int = option(0, "fixes the order of pairs, which are held out, and the new head", low=0, high=2**32 - 1)

    def conflicts(self) -> list[str]:
        """The pairs are not overwritten, and the model has a name."""
        return [
            *output_faults(self.pairs, self.output),
            *([] if self.base_model.strip() else ["'base_model' is empty"]),
        ]


def run(config: RewardModelConfig, progress: Progress) -> Report:
    """Train one and save it.

    Raises:
        AgentFinetuneError: when TRL is not installed, the pairs or the model cannot be used, or the folder is in use.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.rl.start import require_trl

    require_trl("reward-model")
    from sage.libs.finetune.agent.training.rl.reward_training import train_reward_model

    return _report(
        config,
        train_reward_model(
            config.pairs, config.base_model, config.output, num_epochs=config.num_epochs,
            learning_rate=config.learning_rate, batch_size=config.batch_size, max_seq_length=config.max_seq_length,
            held_out=config.held_out, tool_format=config.tool_format, seed=config.seed, progress=progress,
        ),
    )  # fmt: skip


def _report(config: RewardModelConfig, found: RewardModelReport) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table

    facts = {"pairs": f"{found.pairs:,}"}
    if found.too_long:
        facts["left out"] = f"{found.too_long:,}, longer than {config.max_seq_length:,} tokens"
    facts["loss"] = f"{found.losses[0]:.3f} at first, {found.losses[-1]:.3f} in the end"
    if found.accuracy is None:
        facts["held out"] = "none: too few pairs to measure on"
    else:
        facts["held out"] = f"{found.held_out:,} pairs, the chosen side scores higher in {found.accuracy:.1%}"
    data = {
        "pairs": found.pairs,
        "too_long": found.too_long,
        "held_out": found.held_out,
        "accuracy": found.accuracy,
        "steps": len(found.losses),
        "final_loss": finite(found.losses[-1]),
        "output": str(config.output),
    }
    next_step = f"next: sage-finetune rl --base-model {config.base_model} --reward-model {config.output}"
    return Report(data, [facts_table(facts)], [next_step])


COMMAND = Command(
    name="reward-model",
    help="Train a model that scores episodes, for `rl --reward-model`, on pairs of which one side was preferred.",
    example="sage-finetune reward-model pairs.jsonl --base-model runs/first -o runs/reward",
    config=RewardModelConfig,
    run=run,
)
