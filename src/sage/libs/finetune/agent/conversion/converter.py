"""Trajectories in, training rows out; the format is picked by name from `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.conversion.alpaca import to_alpaca
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.jsonl import encode
from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.types import AgentTrajectory


class Format(Protocol):
    """Turns a trajectory with at least one step into one row of plain JSON types."""

    def __call__(
        self, trajectory: AgentTrajectory, *, include_observation: bool, system_prompt: str | None
    ) -> dict[str, Any]:
        """Convert one trajectory."""
        ...


FORMATS = Registry[Format]("SFT format")
FORMATS.add("chatml", to_chatml)
FORMATS.add("alpaca", to_alpaca)


@dataclass
class SFTConversionConfig:
    """What a training row looks like.

    Attributes:
        format: `chatml` (messages with tool calls; what training uses) or `alpaca` (one ReAct text).
        include_observation: Whether observations are in the row. They are context, never trained on.
        system_prompt: System message of every row; None keeps the trajectory's own, "" leaves it out.

    Raises:
        ConfigError: for an unknown format or a value of the wrong type.
    """

    format: str = "chatml"
    include_observation: bool = True
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        for name, wanted, expected in (
            ("format", str, "the name of a format"),
            ("include_observation", bool, "True or False"),
            ("system_prompt", (str, type(None)), "text or None"),
        ):
            value = getattr(self, name)
            if not isinstance(value, wanted):
                raise ConfigError(f"SFTConversionConfig: {name}={value!r}: expected {expected}")
        FORMATS[self.format]  # an unknown name fails here rather than after hours of collecting


class TrajectoryToSFTConverter:
    r"""Converts trajectories to rows for supervised fine-tuning.

    Example:
        >>> from sage.libs.finetune.agent.types import TrajectoryStep
        >>> step = TrajectoryStep("2 + 2 is 4.", "finish", {"answer": "4"})
        >>> row = TrajectoryToSFTConverter().convert_single(AgentTrajectory("a", "What is 2 + 2?", [step]))
        >>> [message["content"] for message in row["messages"]]
        ['What is 2 + 2?', '2 + 2 is 4.\nAnswer: 4']
    """

    def __init__(self, config: SFTConversionConfig | None = None) -> None:
        self.config = config or SFTConversionConfig()
        self._format = FORMATS[self.config.format]

    def convert(self, trajectories: Iterable[AgentTrajectory]) -> list[dict[str, Any]]:
        """One row per trajectory, in order; the errors are those of `convert_single`."""
        return [self.convert_single(trajectory) for trajectory in trajectories]

    def convert_single(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        """One row. A row none of whose turns is trained (every call was refused) is returned all the same.

        Raises:
            DataError: naming the task, when the trajectory has no steps or JSON has no form for it.
        """
        if not trajectory.steps:
            raise DataError(
                f"task '{trajectory.task_id}': the trajectory has no steps; drop it (TrajectoryFilter does)"
            )
        try:
            encode(trajectory.to_dict())
        except (TypeError, ValueError) as error:
            raise DataError(
                f"task '{trajectory.task_id}': the trajectory cannot be written as JSON ({error}); "
                "use text, finite numbers, booleans, null, lists and dicts"
            ) from error
        return self._format(
            trajectory,
            include_observation=self.config.include_observation,
            system_prompt=self.config.system_prompt,
        )
