"""Whatever can reply, made to reply to the items of a test set.

Local models generate in batches (`local_replies`), servers are asked by many requests at once, functions one item after
the other. A reply is text: native tool calls are written out, in the form that `parse_reply` reads. A model that fails
on an item fails on that item: the reply then has an `error` and is no empty answer.

Replies may have been paid for, so those that came before an interrupt are kept in `so_far`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.models.chat_endpoint import ChatEndpoint, EndpointError, message_text, shown_address
from sage.libs.finetune.agent.trajectories.execution.event_loop import finished, submit

_HOPELESS = 8
"""So many replies in a row that fail for one reason, and a server is asked no further."""
_OF_THE_ITEM = re.compile(r": status (400|413|422): ")
"""How a server refuses one request; it comes at once, and says nothing about the next."""
_LONGEST_ERROR = 500
_METHODS = ("chat", "generate")
Told = Callable[[int], None]
"""Called with the number of items that are done."""


@dataclass(frozen=True)
class Reply:
    """What a model said to one item.

    Attributes:
        text: Its words and calls.
        error: Class and message of what it raised instead, None when it replied.
        seconds: How long it took; in a batch each reply has its share of the batch's time.
        cut: Whether the reply reached the token limit before its end; False where that is not known.
    """

    text: str
    error: str | None = None
    seconds: float = 0.0
    cut: bool = False


class Replier(Protocol):
    """Anything that replies to items."""

    name: str

    def replies(self, items: Sequence[Item], told: Told = ...) -> list[Reply]:
        """One reply an item, in their order."""
        ...


def replier_of(
    model: Any,
    *,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_new_tokens: int = 256,
    concurrency: int = 16,
    dtype: str = "auto",
    tool_format: str = "auto",
) -> Replier:
    """What asks `model` for its replies.

    Args:
        model: An AgentSFTTrainer or a LoadedModel; a hub id or a folder (model, adapter or run); a model of
            transformers or PEFT; a server as `http://host:port/v1#model-name`; a function `messages -> reply`, or
            `(messages, tools) -> reply`, which may be a coroutine function; or an object with such a method `chat` or
            `generate`. A reply is text, a message of the OpenAI form, or an object with `content`.
        tokenizer: Of a transformers model; None for the one saved with it.
        batch_size: Prompts a local model continues together.
        max_new_tokens: Longest reply of a local model or a server.
        concurrency: Requests that a server, or a coroutine function, has at once.
        dtype: Of a model that is loaded here.
        tool_format: Of a model that is loaded here, or given without a LoadedModel around it.

    Raises:
        ConfigError: for something that cannot reply.
        ModelError: for a model that cannot be loaded.

    Example:
        >>> replier = replier_of(lambda messages: messages[-1]["content"].upper())
        >>> replier.replies([{"id": "a", "messages": [{"role": "user", "content": "hi"}], "tools": []}])[0].text
        'HI'
    """
    if isinstance(model, str | Path) and re.match("https?://", str(model)):
        return _server(str(model), max_new_tokens, concurrency)
    if isinstance(model, str | Path) or _is_local(model):
        from sage.libs.finetune.agent.capabilities.local_replies import LocalReplier, as_loaded

        loaded = as_loaded(model, tokenizer, dtype, tool_format)
        return LocalReplier(loaded, name=name_of(model), batch_size=batch_size, max_new_tokens=max_new_tokens)
    ask = next((getattr(model, name) for name in _METHODS if callable(getattr(model, name, None))), model)
    if not callable(ask):
        raise ConfigError(
            f"model: {type(model).__name__} cannot reply; expected a trainer, a model or its name, a function, an "
            "object with chat or generate, or http://host:port/v1#model-name"
        )
    return FunctionReplier(ask, name=name_of(model), concurrency=concurrency)


class FunctionReplier:
    """Replies of a function: one after the other, or, of a coroutine function, several at once.

    Args:
        ask: `messages -> reply`, or `(messages, tools) -> reply` where its signature says so: a parameter `tools`, or a
            second one without a default.
        name: What it is called in reports.
        concurrency: Calls of a coroutine function at once.

    Attributes:
        so_far: The replies of the latest call by the item's place, also when it was interrupted.
    """

    def __init__(self, ask: Callable[..., Any], *, name: str, concurrency: int = 16) -> None:
        self.name = name
        self.so_far: dict[int, Reply] = {}
        self._ask = ask
        self._concurrency = concurrency
        self._tools_by_name, self._tools_second = _takes_tools(ask)
        its_call = getattr(ask, "__call__", ask)  # noqa: B004 - its own, not whether
        self._is_async = any(map(inspect.iscoroutinefunction, (ask, its_call)))

    def replies(self, items: Sequence[Item], told: Told = lambda _: None) -> list[Reply]:
        """One reply an item, in their order."""
        found = self.so_far = {}
        if self._is_async:
            ask_at_once(self._awaited, items, self._concurrency, told, found)
            return [found[at] for at in range(len(items))]
        for at, item in enumerate(items):
            begin = time.perf_counter()
            try:
                reply = Reply(text_of(self._call(item)), seconds=time.perf_counter() - begin)
            except Exception as error:  # the model is foreign code, which may fail in any way
                reply = Reply("", in_words(error), time.perf_counter() - begin)
            found[at] = reply
            told(len(found))
        return list(found.values())

    def _call(self, item: Item) -> Any:
        # Copies all the way down: a model that rewrites its tools must not change what it is scored by.
        messages, tools = copy.deepcopy((item["messages"], list(item.get("tools") or [])))
        if self._tools_by_name:
            return self._ask(messages, tools=tools)
        return self._ask(messages, tools) if self._tools_second else self._ask(messages)

    async def _awaited(self, item: Item) -> Reply:
        return Reply(text_of(await self._call(item)))


class EndpointReplier:
    """Replies of a server; tools are sent natively.

    Args:
        endpoint: The server and its model.
        concurrency: Requests at once.

    Attributes:
        so_far: The replies of the latest call by the item's place, also when it was interrupted.
    """

    def __init__(self, endpoint: ChatEndpoint, *, concurrency: int = 16) -> None:
        self.name = f"{endpoint.model} at {shown_address(endpoint.base_url)}"
        self.endpoint = endpoint
        self.so_far: dict[int, Reply] = {}
        self._concurrency = concurrency
        self._health = _Health()

    def replies(self, items: Sequence[Item], told: Told = lambda _: None) -> list[Reply]:
        """One reply an item, in their order.

        A server that replied and then fails eight times in a row for the same reason, other than that it refuses the
        very request, is gone: the items that are left are errors with that reason.

        Raises:
            EndpointError: when a server that never replied fails so from the start.
        """
        found = self.so_far = {}
        if ask_at_once(self._reply, items, self._concurrency, told, found, self._health.is_gone):
            if not self._health.has_replied:
                reason = self._health.reason.removeprefix(f"{EndpointError.__name__}: ")
                raise EndpointError(f"{reason} (stopped: {_HOPELESS} replies in a row failed so)")
            unasked = Reply("", f"{self._health.reason} (given up: {_HOPELESS} replies in a row failed so)")
            found |= {at: unasked for at in range(len(items)) if at not in found}
            told(len(items))
        return [found[at] for at in range(len(items))]

    async def _reply(self, item: Item) -> Reply:
        choice = await self.endpoint.choice(self.endpoint.request(item["messages"], item.get("tools") or ()))
        message, reason = choice.get("message"), choice.get("finish_reason")
        if not isinstance(message, Mapping) or reason == "error":
            raise ModelError(f"the server gave no message: {choice!r:.120}")
        return Reply(_read_text(message), cut=reason == "length")


def ask_at_once(
    ask: Callable[[Item], Awaitable[Reply]],
    items: Sequence[Item],
    concurrency: int,
    told: Told,
    found: dict[int, Reply],
    is_gone: Callable[[Reply], bool] = lambda _: False,
) -> bool:
    """Ask for all replies, `concurrency` at once; what `ask` raises becomes the error of that item.

    Args:
        ask: Gives the reply to one item.
        items: What to ask.
        concurrency: Most at once.
        told: Told how many are done.
        found: Where each reply is put when it comes, by the item's place.
        is_gone: Shown each reply when it comes; True ends it.

    Returns:
        Whether it was ended so; replies may then be missing.
    """

    async def one(at: int, room: asyncio.Semaphore) -> tuple[int, Reply | BaseException]:
        async with room:
            begin = time.perf_counter()
            try:
                reply = await ask(items[at])
            except (KeyboardInterrupt, SystemExit) as error:  # raised in a task it would end the loop of all
                return at, error
            except Exception as error:
                return at, Reply("", in_words(error), time.perf_counter() - begin)
            return at, Reply(reply.text, None, time.perf_counter() - begin, reply.cut)

    async def everything() -> bool:
        room = asyncio.Semaphore(concurrency)
        running = [asyncio.ensure_future(one(at, room)) for at in range(len(items))]
        try:
            for done in asyncio.as_completed(running):
                at, reply = await done
                if isinstance(reply, BaseException):
                    raise reply
                found[at] = reply
                told(len(found))
                if is_gone(reply):
                    return True
        finally:
            for task in running:
                task.cancel()
        return False

    return bool(finished(submit(everything())))


def text_of(reply: Any) -> str:
    """The text of whatever a function gave as its reply.

    Raises:
        ModelError: when it is neither text nor a message, or the message's content is nothing that can be read.

    Example:
        >>> text_of({"role": "assistant", "content": "4"}), text_of("4")
        ('4', '4')
    """
    if isinstance(reply, str):
        return reply
    if isinstance(reply, Mapping):
        if isinstance(reply.get("choices"), list) and reply["choices"]:  # a whole chat completion
            return text_of(reply["choices"][0])
        if isinstance(reply.get("message"), Mapping):
            return text_of(reply["message"])
        if "content" in reply or "tool_calls" in reply:
            return _read_text(reply)
    elif hasattr(reply, "content"):
        calls = [_call_as_mapping(call) for call in getattr(reply, "tool_calls", None) or ()]
        thought = getattr(reply, "reasoning_content", None)
        return _read_text({"content": reply.content, "tool_calls": calls, "reasoning_content": thought})
    raise ModelError(f"the reply is {type(reply).__name__}; expected text, a message, or an object with content")


def _read_text(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content must not be lost unseen: that would make a reply into an empty one."""
    content, text = message.get("content"), message_text(message)
    parts = content if isinstance(content, list) else []
    unread = [
        part for part in parts if not isinstance(part, str) and not (isinstance(part, Mapping) and "text" in part)
    ]
    lost = any(not isinstance(part, Mapping) for part in unread) or (unread and not text)
    if lost or not isinstance(content, str | list | None):
        raise ModelError(f"the content of the reply is {content!r:.80}; expected text, or a list of parts with text")
    return text


def in_words(error: BaseException) -> str:
    """Class and message of an error, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_LONGEST_ERROR] if text else type(error).__name__


def _call_as_mapping(call: Any) -> dict[str, Any]:
    """A call of an object's message: the OpenAI client's own, or LangChain's dictionary with `args`."""
    if isinstance(call, Mapping):
        return {"name": call["name"], "arguments": call["args"]} if "args" in call else dict(call)
    function = getattr(call, "function", call)
    return {"name": getattr(function, "name", None), "arguments": getattr(function, "arguments", None)}


class _Health:
    """Whether a server still replies: what it has done in a row, over all that it is asked.

    Attributes:
        has_replied: Whether it ever did.
        reason: Why it failed last.
    """

    def __init__(self) -> None:
        self.has_replied = False
        self.reason = ""
        self._in_a_row = 0

    def is_gone(self, reply: Reply) -> bool:
        """Count one more reply; True when so many in a row failed for one reason that no item can be the reason."""
        self.has_replied |= reply.error is None
        # Until it has replied once, a refusal of the request may as well be one of the model's name or the settings.
        if reply.error is None or (self.has_replied and not _is_of_the_server(reply.error)):
            self._in_a_row = 0
            return False
        self._in_a_row = self._in_a_row + 1 if _without_numbers(reply.error) == _without_numbers(self.reason) else 1
        self.reason = reply.error
        return self._in_a_row >= _HOPELESS


def _is_of_the_server(error: str) -> bool:
    return error.startswith(f"{EndpointError.__name__}: ") and _OF_THE_ITEM.search(error) is None


def _without_numbers(error: str) -> str:
    """The error without what differs from request to request, such as its id."""
    return re.sub(r"\d+", "#", error)


def _server(address: str, max_new_tokens: int, concurrency: int) -> EndpointReplier:
    base_url, _, name = address.partition("#")
    if not name:
        raise ConfigError(f"model {shown_address(address)}: which of its models? write {shown_address(base_url)}#NAME")
    endpoint = ChatEndpoint(name, base_url=base_url, temperature=0.0, max_tokens=max_new_tokens)
    return EndpointReplier(endpoint, concurrency=concurrency)


def _is_local(model: Any) -> bool:
    """A trainer, a LoadedModel, or a model of transformers or PEFT: told by what they have, so that nothing loads.

    The trainer's `loaded` is looked for on its class, since reading it loads the model.
    """
    is_loaded = all(hasattr(model, name) for name in ("model", "tokenizer", "template", "location"))
    return is_loaded or hasattr(type(model), "loaded") or hasattr(model, "get_output_embeddings")


def _takes_tools(ask: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a function takes tools by name, and whether as a second argument."""
    try:
        parameters = inspect.signature(ask).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False, False
    by_name = "tools" in parameters and parameters["tools"].kind is not inspect.Parameter.POSITIONAL_ONLY
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in parameters.values() if one.kind in places and one.default is one.empty]
    return by_name, not by_name and len(needed) > 1


def name_of(model: Any) -> str:
    """What a report calls the model: where it is from, if that is known."""
    if isinstance(model, str | Path):
        return str(model)
    if hasattr(type(model), "loaded"):
        return str(getattr(model, "run_folder", None) or model.config.base_model)
    names = (getattr(model, name, None) for name in ("location", "name_or_path", "__name__"))
    return next((name for name in names if name and isinstance(name, str)), type(model).__name__)
