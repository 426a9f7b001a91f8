"""The methods that are compared, by name."""

from __future__ import annotations

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion

BASELINE = "A_baseline"
_QUICK = (BASELINE, "B3_coreset_hybrid", "D_combined")


class MethodRegistry:
    """The predefined methods.

    Example:
        >>> all_methods = MethodRegistry.get_all_methods()
        >>> all_methods["E_fireact"].description
        'Trajectory fine-tuning: an agent works on tasks, what succeeded is trained on'
        >>> list(MethodRegistry.get_quick_methods())
        ['A_baseline', 'B3_coreset_hybrid', 'D_combined']
    """

    @classmethod
    def get_all_methods(cls) -> dict[str, MethodConfig]:
        """All predefined methods by id, new objects at each call; B4 is the control of the selecting ones."""
        methods = (
            ("A_baseline", MethodConfig("Baseline", "Standard SFT with LoRA on all rows")),
            ("B1_coreset_loss", _coreset("Coreset (Loss)", "Rows with the highest loss", "loss_topk")),
            ("B2_coreset_diversity", _coreset("Coreset (Diversity)", "Rows that cover the others", "diversity")),
            ("B3_coreset_hybrid", _coreset("Coreset (Hybrid)", "By loss and by coverage", "hybrid")),
            ("B4_coreset_random", _coreset("Coreset (Random)", "The control: rows by chance", "random")),
            (
                "C_continual",
                MethodConfig("Continual", "Tasks one after another, with experience replay", use_continual=True),
            ),
            (
                "D_combined",
                MethodConfig(
                    "Combined", "A coreset of each task, tasks one after another with replay", use_coreset=True,
                    use_continual=True,
                ),
            ),
            (
                "E_fireact",
                MethodConfig(
                    "FireAct", "Trajectory fine-tuning: an agent works on tasks, what succeeded is trained on",
                    use_trajectory_collection=True,
                ),
            ),
            (
                "F_agenttuning",
                MethodConfig(
                    "AgentTuning", "Multi-task training: agent rows and general rows, mixed by eta", use_multi_task=True
                ),
            ),
            ("G_dora", MethodConfig("DoRA", "Weight-decomposed LoRA", use_dora=True)),
            ("H_lora_plus", MethodConfig("LoRA+", "LoRA with a higher learning rate for B", use_lora_plus=True)),
        )  # fmt: skip
        return dict(methods)

    @classmethod
    def get_quick_methods(cls) -> dict[str, MethodConfig]:
        """A few of them, for a first look."""
        methods = cls.get_all_methods()
        return {name: methods[name] for name in _QUICK}

    @classmethod
    def get(cls, name: str) -> MethodConfig:
        """One method by its id.

        Raises:
            ConfigError: for an unknown one, listing the known.
        """
        methods = cls.get_all_methods()
        if name not in methods:
            raise ConfigError(f"unknown method '{name}'; {suggestion(name, methods)}known: {', '.join(methods)}")
        return methods[name]


def _coreset(name: str, description: str, strategy: str) -> MethodConfig:
    return MethodConfig(name, description, use_coreset=True, coreset_strategy=strategy)
