"""Who works in `collect`: an agent that comes with the environment, a model behind a server, or one on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion

if TYPE_CHECKING:
    from sage.libs.finetune.agent.cli.commands.collect import CollectConfig
    from sage.libs.finetune.agent.environments.known import Named

logger = logging.getLogger(__name__)

ENDPOINT = "endpoint"
"""The agent that is a model behind a server."""
BATCH_SIZE = 32
"""Episodes that a model on this machine works on at once, unless told otherwise."""
FACTS = ("agent", "seed", "failure_rate", "environment", "endpoint_model", "method", "temperature")
"""All that `made_by` may say."""


def check_agent(config: CollectConfig, named: Named) -> None:
    """Find out before the work whether there can be such an agent; nothing is loaded.

    Raises:
        ConfigError: when the name is a slip of the hand, not a model to look for on a hub; when settings are given
            that this agent does not read; for an unknown strategy.
    """
    from sage.libs.finetune.agent.trajectories.strategies import pick_strategy

    agent, scripted = config.agent, tuple(named.agents)
    known = (*scripted, ENDPOINT)
    near = suggestion(agent, known)
    if agent not in known and "/" not in agent and not Path(agent).exists():
        if near:
            raise ConfigError(f"unknown agent '{agent}'; {near}Give {', '.join(known)}, or a model's id or folder")
        if agent in ("expert", "noisy"):
            raise ConfigError(
                f"environment '{config.environment}' has no agent '{agent}'; give --agent "
                f"{', '.join(known)}, or a model's id or folder"
            )
    this = f"--agent {agent}"
    for names, reads, who, here in (
        (("base_url", "endpoint_model"), agent == ENDPOINT, "--agent endpoint", this),
        (("temperature", "strategy", "calls", "max_new_tokens"), agent not in scripted, "models", this),
        (("failure_rate",), agent == "noisy", "--agent noisy", this),
        (("batch_size",), agent not in known, "models on this machine", this),
        (("ray_address", "ray_cpus"), config.executor == "ray", "--executor ray", "--executor local"),
        (("split",), config.tasks is None, "the environment's own tasks", "--tasks"),
    ):
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(config, name) is not None]
        if given and not reads:
            raise ConfigError(f"{' and '.join(given)} is for {who}, not for {here}; leave it out")
    if config.concurrency > 1 and agent not in known and config.executor == "local":
        raise ConfigError("a model on this machine works on --batch-size episodes at once; leave --concurrency out")
    pick_strategy(config.strategy)
    if agent == ENDPOINT and config.endpoint_model is None:
        raise ConfigError("--agent endpoint needs --endpoint-model, the model's name on the server")


def made_by(config: CollectConfig) -> dict[str, Any]:
    """What trajectories say about who made them."""
    facts: dict[str, Any] = {"agent": config.agent, "seed": config.seed}
    if config.agent == "noisy":
        facts["failure_rate"] = _failure_rate(config)
    if config.environment != "desk":
        facts["environment"] = config.environment
    if config.agent == ENDPOINT:
        facts["endpoint_model"] = config.endpoint_model
    if config.strategy is not None:
        facts["method"] = config.strategy
    if config.temperature is not None:
        facts["temperature"] = config.temperature
    return facts


def _failure_rate(config: CollectConfig) -> float:
    return 0.3 if config.failure_rate is None else config.failure_rate


def make_agent(config: CollectConfig, named: Named) -> object:
    """The agent itself; a model is loaded.

    Raises:
        ConfigError: for a missing package or key.
        ModelError: when there is no such model.
    """
    if config.agent in named.agents:
        return named.agents[config.agent](seed=config.seed, failure_rate=_failure_rate(config))
    settings: dict[str, Any] = {"strategy": config.strategy, "calls": config.calls or "native", "seed": config.seed}
    if config.agent == ENDPOINT:
        from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent

        if config.max_new_tokens is not None:
            settings["max_tokens"] = config.max_new_tokens
        model = str(config.endpoint_model)
        return EndpointAgent(model, base_url=config.base_url, temperature=config.temperature, **settings)
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent

    if config.samples_per_task > 1 and not config.temperature:
        logger.warning("all samples of a task will be the same; give --temperature, so that replies are drawn")
    if config.max_new_tokens is not None:
        settings["max_new_tokens"] = config.max_new_tokens
    temperature = config.temperature or 0.0
    batch_size = config.batch_size or BATCH_SIZE
    return ModelAgent.from_pretrained(config.agent, batch_size=batch_size, temperature=temperature, **settings)
