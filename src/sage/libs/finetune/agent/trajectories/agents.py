"""A local language model as an agent: the conversation so far goes in, the next step comes out.

The conversation is built by `to_messages`, the function that also makes training rows, and rendered by the tokenizer
path that training uses: without a strategy the model sees, token for token, what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.models.sampling import Sampler, greedy
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.trajectories.dialogue import Calls, Dialogue, Examples, sample_of
from sage.libs.finetune.agent.trajectories.replies import read_cut_reply, read_reply
from sage.libs.finetune.agent.trajectories.strategies import Strategy
from sage.libs.finetune.agent.types import TrajectoryStep

__all__ = ["Examples", "ModelAgent", "read_cut_reply", "read_reply"]


class ModelAgent:
    """Replies of a local model, many episodes at a time; greedy unless given a temperature.

    A reply with a tool call is that step (of several calls in one reply the first is made: the next ones were written
    without seeing its result); a reply without one is the final answer; a call that cannot be read is a step `invalid`
    with the reason, as are an empty reply and one cut off at `max_new_tokens`, and the episode goes on.

    Args:
        loaded: Model and tokenizer.
        max_new_tokens: Longest reply.
        examples: Gives the solved episodes to put before a task (few-shot), None for none.
        batch_size: Episodes generated together.
        strategy: "react", "cot", "reflexion" or a `Strategy`; None asks for the task as it is.
        calls: "native" writes tools and calls as the chat template does, "text" into the words (see `dialogue`).
        temperature: 0 for the likeliest reply, above it replies are drawn.
        seed: What is drawn depends on it, the task's id, its sample (`task["metadata"]["sample"]`) and the step, and
            not on what else is in the batch.

    Attributes:
        method: The strategy's name, for `metadata["method"]`; None without one.

    Raises:
        ConfigError: an unknown strategy, or a temperature below 0.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_new_tokens: int = 96,
        examples: Examples | None = None,
        batch_size: int = 64,
        strategy: str | Strategy | None = None,
        calls: Calls = "native",
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not temperature >= 0:
            raise ConfigError(f"ModelAgent: temperature={temperature!r}: expected a number of at least 0")
        self._dialogue = Dialogue(strategy, calls, examples)
        self.method = self._dialogue.strategy.name if self._dialogue.strategy else None
        self._tokenizer = loaded.tokenizer
        self._max_new_tokens = max_new_tokens
        self._temperature, self._seed = temperature, seed
        self.generator = Generator.of(loaded, batch_size)
        self._stop_ids = frozenset(stop_ids(loaded.tokenizer, loaded.model.generation_config))

    @classmethod
    def from_pretrained(cls, name: str, **settings: Any) -> ModelAgent:
        """Load the model by id, folder, adapter or run folder."""
        return cls(load_model(name), **settings)

    def act_batch(
        self, tasks: Sequence[Mapping[str, Any]], histories: Sequence[Sequence[TrajectoryStep]]
    ) -> list[dict[str, Any]]:
        """One decision per task, given what happened in it so far."""
        prompts, seeds, keys = [], [], []
        for task, history in zip(tasks, histories, strict=True):
            prompt = self._dialogue.prompt(task, history)
            prompts.append(render_prompt(prompt.messages, prompt.tools, self._tokenizer))
            keys.append((task["task_id"], sample_of(task)))
            seeds.append(f"{self._seed} {keys[-1]} {len(history)}")
        choose = Sampler(self._temperature, seeds) if self._temperature else greedy
        replies = self.generator.generate(prompts, max_new_tokens=self._max_new_tokens, keys=keys, choose=choose)
        return [self._decision(reply, task) for reply, task in zip(replies, tasks, strict=True)]

    def _decision(self, reply: list[int], task: Mapping[str, Any]) -> dict[str, Any]:
        finished = bool(reply) and reply[-1] in self._stop_ids
        text = str(self._tokenizer.decode(reply[:-1] if finished else reply, clean_up_tokenization_spaces=False))
        return self._dialogue.read(text, task, cut=not finished)
