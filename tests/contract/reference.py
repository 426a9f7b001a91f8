"""The API reference as data: one `Entry` a name, one row a parameter, attribute or method.

Types are the reference's own words. To cover more of the reference, add rows; `test_reference.py` checks every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIRED = object()
"""The reference says "Required": there is no default."""

UNSTATED = object()
"""The reference gives no default: there may be one."""


@dataclass(frozen=True)
class Parameter:
    """A parameter or attribute. `type` "" means that the reference shows it in an example only."""

    name: str
    type: str = ""
    default: Any = UNSTATED


@dataclass(frozen=True)
class Method:
    """A method and the parameters that a call of it in the reference gives, in order; `returns` "" as above."""

    name: str
    parameters: tuple[Parameter, ...] = ()
    returns: str = ""


@dataclass(frozen=True)
class Entry:
    """A public name: a class with constructor parameters and methods, a dataclass of results, or a function.

    `parameters` are those of the call, in the reference's order, so that they can be given by position. `attributes`
    can be read from an instance; for a dataclass they are parameters already.
    """

    name: str
    parameters: tuple[Parameter, ...] = ()
    methods: tuple[Method, ...] = ()
    attributes: tuple[Parameter, ...] = ()
    module: str = "sage.libs.finetune.agent"


P = Parameter

CONFIGS = (
    Entry(
        "AgentSFTConfig",
        (
            P("base_model", "str", REQUIRED),
            P("train_data", "str", REQUIRED),
            P("eval_data", "str | None", None),
            P("output_dir", "Path", Path(".sage/finetune/")),
            P("num_epochs", "int", 3),
            P("batch_size", "int", 8),
            P("learning_rate", "float", 2e-5),
            P("gradient_accumulation_steps", "int", 4),
            P("max_seq_length", "int", 2048),
            P("use_lora", "bool", True),
            P("lora_r", "int", 16),
            P("lora_alpha", "int", 32),
            P("use_dora", "bool", False),
            P("use_lora_plus", "bool", False),
            P("lora_plus_lr_ratio", "float", 16.0),
            P("use_coreset_selection", "bool", False),
            P("coreset_strategy", "str", "hybrid"),
            P("coreset_target_size", "int | None", None),
            P("use_online_continual", "bool", False),
            P("continual_buffer_size", "int", 2048),
            P("continual_replay_ratio", "float", 0.25),
        ),
    ),
    Entry(
        "RLTrainingConfig",
        (
            P("algorithm", "str", "ppo"),
            P("reward_model", "str | None", None),
            P("kl_coef", "float", 0.1),
            P("gamma", "float", 0.99),
        ),
    ),
)

TRAINING = (
    Entry(
        "AgentSFTTrainer",
        (P("config", "AgentSFTConfig", REQUIRED),),
        (
            Method("train", returns="TrainingResult"),
            Method("evaluate", (P("data"),), "EvalResult"),
            Method("save_model", (P("path"),), "None"),
            Method("load_model", (P("path"),), "None"),
        ),
    ),
    Entry("TrainingResult", attributes=(P("final_loss", "float"),)),
    Entry("EvalResult", attributes=(P("accuracy", "float"),)),
)

TRAJECTORIES = (
    Entry(
        "TrajectoryStep",
        (
            P("thought", "str"),
            P("action", "str"),
            P("action_input", "dict"),
            P("observation", "str"),
            P("reward", "float"),
        ),
    ),
    Entry(
        "AgentTrajectory",
        (
            P("task_id", "str"),
            P("instruction", "str"),
            P("steps", "list[TrajectoryStep]"),
            P("success", "bool"),
            P("total_reward", "float"),
        ),
    ),
    Entry(
        "CollectorConfig",
        (P("max_steps", "int", 10), P("require_success", "bool", True), P("save_intermediate", "bool", True)),
    ),
    Entry(
        "TrajectoryCollector",
        (P("agent"), P("config")),
        (
            Method("collect", (P("tasks"),), "list[AgentTrajectory]"),
            Method("collect_single", (P("task"),), "AgentTrajectory"),
        ),
    ),
    Entry(
        "TrajectoryFilter",
        (P("min_reward", "float", 0.5), P("require_success", "bool", True), P("max_steps", "int | None", None)),
        (
            Method("filter", (P("trajectories"),), "list[AgentTrajectory]"),
            Method("get_stats", (P("trajectories"),), "dict"),
        ),
    ),
    Entry(
        "SFTConversionConfig",
        (
            P("format", "str", "chatml"),
            P("include_observation", "bool", True),
            P("system_prompt", "str | None", None),
        ),
    ),
    Entry(
        "TrajectoryToSFTConverter",
        (P("config"),),
        (
            Method("convert", (P("trajectories"),), "list[dict]"),
            Method("convert_single", (P("trajectory"),), "dict"),
        ),
    ),
    Entry("collect_and_convert", (P("agent"), P("tasks"), P("min_reward"), P("require_success"))),
    Entry("load_trajectories", (P("path"),)),
)

SELECTION_AND_REPLAY = (
    Entry(
        "CoresetSelector",
        (P("strategy", "str", "hybrid"), P("target_size", "int", 1000), P("loss_ratio", "float", 0.6)),
        (
            Method("select", (P("samples"), P("model", default=None)), "list"),
            Method("compute_losses", (P("samples"), P("model")), "list[float]"),
            Method("compute_diversity", (P("samples"),)),
        ),
    ),
    Entry(
        "OnlineContinualLearner",
        (
            P("buffer_size", "int", 2048),
            P("replay_ratio", "float", 0.25),
            P("selection_strategy", "str", "reservoir"),
        ),
        (
            Method("mix_with_replay", (P("batch"),), "dict"),
            Method("update_buffer", (P("batch"),), "None"),
            Method("get_replay_samples", (P("n"),), "list"),
            Method("clear_buffer", (), "None"),
        ),
    ),
)

MULTI_TASK = (
    Entry(
        "MixerConfig",
        (
            P("task_weights", "dict[str, float]", REQUIRED),
            P("strategy", "str", "weighted"),
            P("shuffle", "bool", True),
        ),
    ),
    Entry("TaskSample", (P("task_type", "str"), P("data", "dict"), P("source", "str | None"))),
    Entry(
        "MultiTaskMixer",
        (P("config", "MixerConfig"),),
        (
            Method("mix", (P("task_datasets"),), "list[TaskSample]"),
            Method("get_task_distribution", (P("samples"),), "dict[str, int]"),
        ),
    ),
)

EVALUATION = (
    Entry(
        "AgentCapabilityEvaluator",
        methods=(
            Method("evaluate", (P("model"), P("test_sets")), "CapabilityReport"),
            Method("evaluate_capability", (P("model"), P("cap"), P("data")), "CapabilityScore"),
        ),
    ),
    Entry(
        "CapabilityScore",
        (P("capability", "str"), P("score", "float"), P("num_samples", "int"), P("details", "dict")),
    ),
    Entry(
        "CapabilityReport",
        methods=(
            Method("summary", (), "str"),
            Method("to_dict", (), "dict"),
            Method("get_score", (P("capability"),), "float"),
        ),
    ),
)

_METHODS = "sage.benchmark.benchmark_agent.experiments.method_comparison"
COMPARISON = (
    Entry(
        "MethodConfig",
        (P("name", "str"), P("description", "str")),
        attributes=(
            P("use_coreset", "bool"),
            P("coreset_strategy", "str"),
            P("use_continual", "bool"),
            P("use_dora", "bool"),
            P("use_lora_plus", "bool"),
            P("use_trajectory_collection", "bool"),
            P("use_multi_task", "bool"),
        ),
        module=_METHODS,
    ),
    Entry(
        "MethodRegistry",
        methods=(Method("get_all_methods", (), "dict"), Method("get_quick_methods", (), "dict")),
        module=_METHODS,
    ),
)

REFERENCE = (*CONFIGS, *TRAINING, *SELECTION_AND_REPLAY, *TRAJECTORIES, *MULTI_TASK, *EVALUATION, *COMPARISON)
