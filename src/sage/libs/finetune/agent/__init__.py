"""Fine-tune language models on agent tasks: collect, filter, convert, train, evaluate.

vocabulary      errors  types  registry  config  rl_config  answers  chatml  jsonl  progress     standard library only
services        schemas/  tokenization/  models/
stages          sources/  preflight/  environments/  trajectories/  conversion/  selection/  continual/  mixing/
                evaluation/
composition     exchange  validation  training/  capabilities/  pipeline  quickstart  reporting/  cli/

A stage imports the vocabulary and the services, never another stage; composition chains them. The public names below
load on first use, so importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent._version import __version__

if TYPE_CHECKING:
    from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator
    from sage.libs.finetune.agent.capabilities.report import CapabilityReport
    from sage.libs.finetune.agent.config import AgentSFTConfig
    from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
    from sage.libs.finetune.agent.conversion.converter import SFTConversionConfig, TrajectoryToSFTConverter
    from sage.libs.finetune.agent.conversion.preferences import preference_pairs
    from sage.libs.finetune.agent.environments.functions import FunctionEnvironment
    from sage.libs.finetune.agent.environments.gymnasium_text import GymnasiumEnvironment
    from sage.libs.finetune.agent.errors import (
        AgentFinetuneError,
        ConfigError,
        DataError,
        DivergedError,
        ModelError,
        ScoringError,
        TrainingError,
        TrajectoryError,
    )
    from sage.libs.finetune.agent.evaluation.report import CapabilityScore
    from sage.libs.finetune.agent.mixing.config import MixerConfig
    from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
    from sage.libs.finetune.agent.pipeline import collect_and_convert
    from sage.libs.finetune.agent.rl_config import RLTrainingConfig
    from sage.libs.finetune.agent.selection.coreset import CoresetSelector
    from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent
    from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
    from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent
    from sage.libs.finetune.agent.trajectories.filter import TrajectoryFilter
    from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories
    from sage.libs.finetune.agent.types import (
        AgentTrajectory,
        EvalResult,
        StepResult,
        TaskSample,
        TrainingResult,
        TrajectoryStep,
    )

_HOMES = {
    "capabilities.evaluator": ("AgentCapabilityEvaluator",),
    "capabilities.report": ("CapabilityReport",),
    "config": ("AgentSFTConfig",),
    "continual.learner": ("OnlineContinualLearner",),
    "conversion.converter": ("SFTConversionConfig", "TrajectoryToSFTConverter"),
    "conversion.preferences": ("preference_pairs",),
    "environments.functions": ("FunctionEnvironment",),
    "environments.gymnasium_text": ("GymnasiumEnvironment",),
    "errors": (
        "AgentFinetuneError",
        "ConfigError",
        "DataError",
        "DivergedError",
        "ModelError",
        "ScoringError",
        "TrainingError",
        "TrajectoryError",
    ),
    "evaluation.report": ("CapabilityScore",),
    "mixing.config": ("MixerConfig",),
    "mixing.mixer": ("MultiTaskMixer",),
    "pipeline": ("collect_and_convert",),
    "rl_config": ("RLTrainingConfig",),
    "selection.coreset": ("CoresetSelector",),
    "training.rl.trainer": ("AgentRLTrainer",),
    "training.sft": ("AgentSFTTrainer",),
    "trajectories.agents": ("ModelAgent",),
    "trajectories.collector": ("CollectorConfig", "TrajectoryCollector"),
    "trajectories.endpoint": ("EndpointAgent",),
    "trajectories.filter": ("TrajectoryFilter",),
    "trajectories.io": ("load_trajectories", "save_trajectories"),
    "types": ("AgentTrajectory", "EvalResult", "StepResult", "TaskSample", "TrainingResult", "TrajectoryStep"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AgentCapabilityEvaluator",
    "AgentFinetuneError",
    "AgentRLTrainer",
    "AgentSFTConfig",
    "AgentSFTTrainer",
    "AgentTrajectory",
    "CapabilityReport",
    "CapabilityScore",
    "CollectorConfig",
    "ConfigError",
    "CoresetSelector",
    "DataError",
    "DivergedError",
    "EndpointAgent",
    "EvalResult",
    "FunctionEnvironment",
    "GymnasiumEnvironment",
    "MixerConfig",
    "ModelAgent",
    "ModelError",
    "MultiTaskMixer",
    "OnlineContinualLearner",
    "RLTrainingConfig",
    "SFTConversionConfig",
    "ScoringError",
    "StepResult",
    "TaskSample",
    "TrainingError",
    "TrainingResult",
    "TrajectoryCollector",
    "TrajectoryError",
    "TrajectoryFilter",
    "TrajectoryStep",
    "TrajectoryToSFTConverter",
    "__version__",
    "collect_and_convert",
    "load_trajectories",
    "preference_pairs",
    "save_trajectories",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
