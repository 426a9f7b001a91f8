"""A conversation with a local model, a turn at a time, in the form that training rows have.

What the model sees is rendered by the path that training uses. The generator keeps keys and values between turns, so
each reply computes only what came since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.sampling import Sampler, greedy
from sage.libs.finetune.agent.schemas.tools import Tools, UnusableSchema
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.types import Message, ToolSpec, call_id

_KEY = "chat"


@dataclass(frozen=True)
class Call:
    """A tool call of a reply.

    Attributes:
        id: Ties the observation to it.
        name: The tool.
        arguments: As the model gave them.
        fault: Why it cannot be carried out as it is, None when it fits its tool.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    fault: str | None


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: All of it.
        content: The words beside calls and thoughts; the whole text when `error` is set.
        calls: The calls to answer with `observe`, in order.
        error: Why the reply is not to be taken as one: cut off, interrupted, a call that cannot be read or made.
        tokens: Tokens generated.
        seconds: From the question to the last token.
        cached: Prompt tokens that were not computed again.
    """

    text: str
    content: str
    calls: list[Call] = field(default_factory=list)
    error: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    cached: int = 0


class Conversation:
    """Messages, and the model that continues them.

    Args:
        loaded: Model and tokenizer.
        tools: What may be called.
        system: The system message, None for none.
        max_new_tokens: Longest reply.
        temperature: 0 for the likeliest reply, above it replies are drawn.
        seed: Fixes what is drawn.

    Attributes:
        messages: The conversation so far. Turns that are no example to learn from have weight 0.
        tools: As given.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        tools: Sequence[ToolSpec] = (),
        system: str | None = None,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._tokenizer = loaded.tokenizer
        self._generator = Generator.of(loaded, 1)
        self._stop_ids = frozenset(stop_ids(loaded.tokenizer, loaded.model.generation_config))
        self._max_new_tokens, self._temperature, self._seed = max_new_tokens, temperature, seed
        self.messages: list[Message] = []
        self.begin(tools, system)

    def begin(self, tools: Sequence[ToolSpec], system: str | None) -> None:
        """Start afresh with these tools and this system message."""
        self.tools = list(tools)
        self._checked = Tools(self.tools)
        self._calls = 0
        self.messages = [{"role": "system", "content": system}] if system else []

    def say(self, text: str) -> None:
        """A turn of the user."""
        self.messages.append({"role": "user", "content": text})

    def observe(self, call: Call, observation: str) -> None:
        """What came of a call."""
        self.messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": observation})

    def take_back(self, role: str) -> None:
        """Forget the last turn of this role and all that followed it."""
        while self.messages and self.messages.pop()["role"] != role:
            pass

    def reply(self, on_text: Callable[[str], None]) -> Reply:
        """Let the model continue; its turn joins the messages.

        Ctrl-C ends the reply where it is. When nothing had been said by then, the conversation stays as it was.

        Args:
            on_text: Given the whole text so far, again and again while it grows.

        Raises:
            DataError: when the chat template cannot show the messages.
        """
        begin, before = perf_counter(), self._generator.stats.computed_tokens
        prompt = render_prompt(self.messages, self.tools, self._tokenizer)
        said: list[int] = []
        pick = Sampler(self._temperature, [f"{self._seed} {len(self.messages)}"]) if self._temperature else greedy

        def choose(logits: Any, rows: Sequence[int]) -> list[int]:
            [token] = pick(logits, rows)
            said.append(token)
            if token not in self._stop_ids:
                on_text(self._text(said))
            return [token]

        try:
            self._generator.generate([prompt], max_new_tokens=self._max_new_tokens, keys=[_KEY], choose=choose)
            cut = None if said[-1] in self._stop_ids else f"cut off after {self._max_new_tokens} tokens"
        except KeyboardInterrupt:
            cut = "interrupted"
        ended = bool(said) and said[-1] in self._stop_ids
        text = self._text(said[:-1] if ended else said)
        reply = self._read(text, cut)
        computed = self._generator.stats.computed_tokens - before
        cached = max(0, len(prompt) - computed) if said else 0
        return Reply(reply.text, reply.content, reply.calls, reply.error, len(said), perf_counter() - begin, cached)

    def _text(self, tokens: list[int]) -> str:
        """The text so far, without half a character at its end."""
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).rstrip("\ufffd")

    def _read(self, text: str, cut: str | None) -> Reply:
        """The reply in its parts, after adding it to the messages."""
        parsed = parse_reply(text)
        error = cut or (f"a call that cannot be read: {parsed.error}" if parsed.error else None)
        if error is None and parsed.calls and not self.tools:
            error = "a call, but no tools are at hand"
        if error is not None or not parsed.calls:
            if text or cut is None:
                turn: Message = {"role": "assistant", "content": text if error else parsed.content}
                self.messages.append(_thinking(turn, "" if error else parsed.reasoning, trained=error is None))
            return Reply(text, text if error else parsed.content, error=error)
        calls = []
        for made in parsed.calls:
            self._calls += 1
            calls.append(Call(call_id(self._calls), made.name, made.arguments, self._fault(made.name, made.arguments)))
        functions = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        turn = cast(Message, {"role": "assistant", "content": parsed.content, "tool_calls": functions})
        fits = all(call.fault is None for call in calls)
        self.messages.append(_thinking(turn, parsed.reasoning, trained=fits))
        return Reply(text, parsed.content, calls)

    def _fault(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        if name not in self._checked:
            return f"there is no tool '{name}'; there are {', '.join(self._checked)}"
        try:
            faults = self._checked.call_faults(name, arguments)
        except UnusableSchema as error:
            return f"the schema of '{name}' cannot be applied: {error}"
        if faults is None:
            return None
        return faults.misfit or f"null for {', '.join(faults.padded)}, which the schema does not know"


def _thinking(turn: Message, reasoning: str, *, trained: bool) -> Message:
    if reasoning:
        turn["reasoning_content"] = reasoning
    if not trained:
        turn["weight"] = 0.0
    return turn


def saved_row(conversation: Conversation, model: str) -> dict[str, Any] | None:
    """The conversation as a training row, up to the last words of the assistant's.

    None when there is nothing to learn from: no reply yet, or only such as were cut off or faulty (weight 0).
    """
    messages = list(conversation.messages)
    while messages and (messages[-1]["role"] != "assistant" or messages[-1].get("tool_calls")):
        messages.pop()
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        return None
    return {"messages": messages, "tools": conversation.tools, "metadata": {"source": "chat", "model": model}}
