"""Every error this package raises on purpose.

One base class, one class per boundary that was crossed; each also inherits the standard-library error it refines,
so code that catches `ValueError` or `RuntimeError` still works. A message is one line: what, where, what was
expected, what to do. The command line prints it as it is and exits with the class's `exit_code`.

To add one: subclass `AgentFinetuneError` and the closest stdlib error, and give it an exit code from the table
(1 runtime, 2 usage or configuration, 3 a check failed).
"""


class AgentFinetuneError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class ConfigError(AgentFinetuneError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""

    exit_code = 2


class DataError(AgentFinetuneError, ValueError):
    """A file or row cannot be read as what it should be; the message names file, line and field."""

    exit_code = 2


class TrajectoryError(AgentFinetuneError, RuntimeError):
    """An agent or an environment broke its protocol."""


class ModelError(AgentFinetuneError, RuntimeError):
    """A model, tokenizer or chat template cannot be used for what was asked."""

    exit_code = 2


class ScoringError(AgentFinetuneError, ValueError):
    """A reply cannot be scored because the sample to score it against is unusable."""


class TrainingError(AgentFinetuneError, RuntimeError):
    """Training cannot start or go on."""


class DivergedError(TrainingError):
    """A loss, a gradient or a weight is no number any more."""
