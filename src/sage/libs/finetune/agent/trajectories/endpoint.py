"""A model behind an OpenAI-compatible server as an agent: one request a step.

The server is asked by `ChatEndpoint`, which repeats what can get better by waiting. What cannot, and what did not, is
an `EndpointError`; it ends this episode and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.models.chat_endpoint import (
    ChatEndpoint,
    EndpointError,
    Usage,
    check_range,
    shown_address,
    wire_messages,
)
from sage.libs.finetune.agent.trajectories.dialogue import Calls, Dialogue, Examples, Prompt, sample_of
from sage.libs.finetune.agent.trajectories.strategies import Strategy
from sage.libs.finetune.agent.types import TrajectoryStep

__all__ = ["EndpointAgent", "EndpointError", "Usage", "wire_messages"]


class EndpointAgent(ChatEndpoint):
    """Replies of a chat model behind an OpenAI-compatible server.

    With native calls the first of several parallel calls is made: an agent decides one step at a time, and the others
    were written without seeing its result. All of them stay in the step's `reply`. A reply without a native call is
    read as text, so a server that passes tool calls through unparsed works too. What a reasoning model thought
    (`reasoning_content`) is part of the step's thought.

    Args:
        model: The model's name on the server.
        base_url: The server's address up to and with `/v1`; default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: Default `OPENAI_API_KEY`; a server of one's own that wants none gets "EMPTY". It is never shown, but
            it travels with a pickled agent.
        calls: "native" sends `tools` and reads `tool_calls`; "text" puts both into the words, for servers without
            tool support.
        strategy: "react", "cot", "reflexion" or a `Strategy`; None asks for the task as it is.
        examples: Gives the solved episodes to put before a task (few-shot), None for none.
        temperature: 0 for the likeliest reply; None leaves it to the server.
        top_p: Share of the probability sampled from; None leaves it to the server.
        max_tokens: Longest reply, None for the server's limit.
        seed: Sample `i` of a task asks with `seed + i` (`task["metadata"]["sample"]`); None for no seed.
        max_retries: How often a failed request is repeated.
        timeout: Seconds a server may say nothing; the whole is limited by `CollectorConfig.episode_timeout`.
        extra_body: Further fields of the request, such as `{"parallel_tool_calls": False}`; they win over the others.

    Attributes:
        method: The strategy's name, for `metadata["method"]`; None without one.
        usage: What was asked so far, by all episodes of this process.

    Raises:
        ConfigError: when the package `openai` or the key is missing, or a value is out of range.

    Example:
        >>> agent = EndpointAgent("qwen", base_url="http://localhost:8000/v1", api_key="secret", strategy="react")
        >>> agent
        EndpointAgent('qwen', base_url='http://localhost:8000/v1', calls='native', strategy='react')
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        calls: Calls = "native",
        strategy: str | Strategy | None = None,
        examples: Examples | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = 1024,
        seed: int | None = None,
        max_retries: int = 6,
        timeout: float = 120.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model, base_url=base_url, api_key=api_key, temperature=temperature, top_p=top_p, max_tokens=max_tokens,
            max_retries=max_retries, timeout=timeout, extra_body=extra_body,
        )  # fmt: skip
        check_range("EndpointAgent: seed", seed, 0, whole=True)
        self._seed, self._calls = seed, calls
        self._dialogue = Dialogue(strategy, calls, examples)
        self.method = self._dialogue.strategy.name if self._dialogue.strategy else None

    def __repr__(self) -> str:
        url = shown_address(self.base_url)
        return f"EndpointAgent({self.model!r}, base_url={url!r}, calls={self._calls!r}, strategy={self.method!r})"

    async def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> dict[str, Any]:
        """The next step of an episode.

        Raises:
            EndpointError: when the server gave no reply; one line with its address, the reason and what to do.
        """
        choice = await self.choice(self._request(self._dialogue.prompt(task, history), task))
        return self._dialogue.read_choice(choice, task)

    def _request(self, prompt: Prompt, task: Mapping[str, Any]) -> dict[str, Any]:
        request = self.request(prompt.messages, prompt.tools)
        if prompt.stop:
            request["stop"] = list(prompt.stop)
        if self._seed is not None:
            request["seed"] = self._seed + sample_of(task)
        return request
