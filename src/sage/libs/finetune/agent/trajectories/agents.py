"""A language model as an agent: the conversation so far goes in, the next step comes out.

The conversation is built by `to_messages`, the function that also makes training rows, and rendered by the tokenizer
path that training uses: what the model sees here is, token for token, what it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.answers import split_thought
from sage.libs.finetune.agent.chatml import to_messages, user_text
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.types import FINISH, INVALID, AgentTrajectory, Message, TrajectoryStep

Examples = Callable[[Mapping[str, Any]], Sequence[AgentTrajectory]]


class ModelAgent:
    """Greedy replies of a local model, many episodes at a time.

    A reply with a tool call is that step (of several calls in one reply the first is made: the next ones were written
    without seeing its result); a reply without one is the final answer; a call that cannot be read is a step `invalid`
    with the reason, as is a reply cut off at `max_new_tokens`, and the episode goes on.

    Args:
        loaded: Model and tokenizer.
        max_new_tokens: Longest reply.
        examples: Gives the solved episodes to put before a task (few-shot), None for none.
        batch_size: Episodes generated together.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_new_tokens: int = 96,
        examples: Examples | None = None,
        batch_size: int = 64,
    ) -> None:
        self._tokenizer = loaded.tokenizer
        self._examples = examples
        self._max_new_tokens = max_new_tokens
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
        prompts = [self._prompt(task, list(history)) for task, history in zip(tasks, histories, strict=True)]
        keys = [task["task_id"] for task in tasks]
        replies = self.generator.generate(prompts, max_new_tokens=self._max_new_tokens, keys=keys)
        return [self._decision(reply) for reply in replies]

    def _decision(self, reply: list[int]) -> dict[str, Any]:
        text = str(self._tokenizer.decode(reply))
        finished = bool(reply) and reply[-1] in self._stop_ids
        return read_reply(text) if finished else read_cut_reply(text)

    def _prompt(self, task: Mapping[str, Any], history: list[TrajectoryStep]) -> list[int]:
        tools = list(task.get("tools") or [])
        shown: list[Message] = []
        for example in self._examples(task) if self._examples else ():
            shown += to_messages(example, system_prompt="")
        return render_prompt([*_opening(task), *shown, *_turns(task, history)], tools, self._tokenizer)


def read_reply(text: str) -> dict[str, Any]:
    r"""A model's reply as a decision.

    Example:
        >>> read_reply('Look it up.\n{"name": "find", "arguments": {"q": "desk"}}')["action_input"]
        {'q': 'desk'}
        >>> read_reply("42")["action"]
        'finish'
    """
    parsed = parse_reply(text)
    if parsed.error is not None:
        return {"action": INVALID, "reply": parsed.content, "error": f"unreadable call: {parsed.error}"}
    if parsed.calls:
        call = parsed.calls[0]
        return {"thought": parsed.content, "action": call.name, "action_input": call.arguments, "reply": text}
    thought, answer = split_thought(parsed.content)
    return {"thought": thought, "action": FINISH, "action_input": {"answer": answer}, "reply": text}


def read_cut_reply(text: str) -> dict[str, Any]:
    """A reply that reached the token limit before its end: nobody knows what it would have been.

    Example:
        >>> read_cut_reply("The total is 84, and")["error"]
        'unreadable reply: cut off at the token limit'
    """
    return {"action": INVALID, "reply": text, "error": "unreadable reply: cut off at the token limit"}


def _opening(task: Mapping[str, Any]) -> list[Message]:
    system = task.get("system_prompt")
    return [{"role": "system", "content": system}] if system else []


def _turns(task: Mapping[str, Any], history: list[TrajectoryStep]) -> list[Message]:
    """The task and the steps so far, without the system message."""
    opening = {"opening": task["opening"]} if "opening" in task else {}
    episode = AgentTrajectory(
        task["task_id"], task["instruction"], history, tools=list(task.get("tools") or []), metadata=opening
    )
    if not history:
        return [{"role": "user", "content": user_text(episode)}]
    return to_messages(episode)
