"""A chat model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, `transformers serve` ...

One request a reply; the client is the official `openai` package (extra `openai`), loaded when the first request is
made. Requests share nothing but the counters, so as many may run at once as the server takes.

A failing server is asked again: time-outs, broken connections, the statuses 408, 409, 429 and 5xx with exponential
back-off and jitter, `Retry-After` honoured (the client does that), and replies whose body is no chat completion (done
here). What cannot get better by waiting (400, 401, 403, 404 ...) and what did not get better is an `EndpointError` that
says what to do.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sage.libs.finetune.agent.errors import ConfigError, TrajectoryError
from sage.libs.finetune.agent.types import Message, ToolSpec

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds; those of the openai client
_OPENAI_HOST = "api.openai.com"
_NO_KEY = "EMPTY"  # what servers of one's own are given by custom
_HINTS = {
    401: "give the right api_key, or set OPENAI_API_KEY",
    403: "this api_key may not use the model; give another",
    404: "check the model's name, and base_url (most servers' ends in /v1)",
    429: "run fewer episodes at once, or raise max_retries",
}


class EndpointError(TrajectoryError):
    """A server gave no reply, and asking again will not help."""


@dataclass
class Usage:
    """What an agent asked of its server.

    Attributes:
        prompt_tokens: Tokens of all prompts, as the server counted them.
        completion_tokens: Tokens it generated.
        requests: HTTP requests sent, repeated ones included.
        retries: Those of them that repeated a failed one.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    retries: int = 0


class ChatEndpoint:
    """A model on a server, ready to be asked for chat completions.

    Args:
        model: The model's name on the server.
        base_url: The server's address up to and with `/v1`; default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: Default `OPENAI_API_KEY`; a server of one's own that wants none gets "EMPTY". It is never shown, but
            it travels with a pickled endpoint.
        temperature: 0 for the likeliest reply; None leaves it to the server.
        top_p: Share of the probability sampled from; None leaves it to the server.
        max_tokens: Longest reply, None for the server's limit.
        max_retries: How often a failed request is repeated.
        timeout: Seconds a server may say nothing.
        extra_body: Further fields of each request, such as `{"parallel_tool_calls": False}`; they win over the others.

    Attributes:
        usage: What was asked so far, by this process.

    Raises:
        ConfigError: when the package `openai` or the key is missing, or a value is out of range.

    Example:
        >>> ChatEndpoint("qwen", base_url="http://localhost:8000/v1", api_key="secret")
        ChatEndpoint('qwen', base_url='http://localhost:8000/v1')
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = 1024,
        max_retries: int = 6,
        timeout: float = 120.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        who = type(self).__name__
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(f"{who} needs the package openai; run: pip install 'sage-libs[openai]'")
        if not isinstance(model, str) or not model:
            raise ConfigError(f"{who}: model={model!r}: expected the model's name on the server")
        check_range(f"{who}: temperature", temperature, 0, 100)
        check_range(f"{who}: top_p", top_p, 0, 1)
        check_range(f"{who}: max_tokens", max_tokens, 1, whole=True)
        check_range(f"{who}: max_retries", max_retries, 0, whole=True, optional=False)
        check_range(f"{who}: timeout", timeout, 0.001, optional=False)
        self.model = model
        self.base_url = _server(base_url or os.environ.get("OPENAI_BASE_URL") or f"https://{_OPENAI_HOST}/v1", who)
        self._api_key = _key(api_key or os.environ.get("OPENAI_API_KEY") or _no_key(self.base_url, who), who)
        limit = "max_completion_tokens" if urlsplit(self.base_url).hostname == _OPENAI_HOST else "max_tokens"
        chosen = {"temperature": temperature, "top_p": top_p, limit: max_tokens}
        self._settings = {name: value for name, value in chosen.items() if value is not None}
        self._max_retries, self._timeout = max_retries, timeout
        self._extra_body = dict(extra_body) if extra_body else None
        self._begin()

    def _begin(self) -> None:
        """What belongs to this process: the connections, one client an event loop, and the counters."""
        self._clients: dict[asyncio.AbstractEventLoop, AsyncOpenAI] = {}
        self._lock = threading.Lock()
        self._usage = Usage()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_clients", "_lock", "_usage")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={shown_address(self.base_url)!r})"

    @property
    def usage(self) -> Usage:
        """A copy of the counters."""
        with self._lock:
            return replace(self._usage)

    def request(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> dict[str, Any]:
        """The fields of a request for the reply to a conversation, for `choice`; more may be added."""
        request: dict[str, Any] = {"model": self.model, "messages": wire_messages(messages), **self._settings}
        return {**request, "tools": list(tools)} if tools else request

    async def choice(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of the server's reply as JSON, after as many requests as it takes and is allowed.

        Raises:
            EndpointError: when the server gave no reply; one line with its address, the reason and what to do.
        """
        import openai

        requests = 0
        tokens: object = None
        try:
            while True:
                # A request beyond the first is itself a retry, so the client has that many fewer left.
                client = self._client().with_options(max_retries=self._max_retries - requests)
                try:
                    raw = await client.chat.completions.with_raw_response.create(**request, extra_body=self._extra_body)
                except openai.APIError as error:
                    # The client gives no count with an error, but wrote it into the last request it sent.
                    requests += 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
                    raise EndpointError(self._cleaned(_fault(error, self.base_url, requests, self._timeout))) from None
                requests += 1 + raw.retries_taken
                body = _json_object(raw.text)
                choices = body.get("choices")
                if isinstance(choices, list) and choices and isinstance(choices[0], dict):
                    tokens = body.get("usage")
                    return choices[0]
                if requests > self._max_retries or "json" not in raw.headers.get("content-type", ""):
                    raise EndpointError(self._cleaned(_no_completion(body, raw.text, self.base_url, requests)))
                pause = min(_FIRST_PAUSE * 2 ** (requests - 1), _LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))
        finally:
            self._count(requests, tokens)

    def _client(self) -> AsyncOpenAI:
        """The client of the running event loop: connections cannot be carried from one loop to another."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                self._clients = {one: client for one, client in self._clients.items() if not one.is_closed()}
                self._clients[loop] = AsyncOpenAI(
                    base_url=self.base_url, api_key=self._api_key, max_retries=self._max_retries, timeout=self._timeout
                )
            return self._clients[loop]

    def _count(self, requests: int, tokens: object) -> None:
        told = tokens if isinstance(tokens, dict) else {}
        prompt, completion = (told.get(name) for name in ("prompt_tokens", "completion_tokens"))
        with self._lock:
            self._usage.requests += requests
            self._usage.retries += max(0, requests - 1)
            self._usage.prompt_tokens += prompt if isinstance(prompt, int) else 0
            self._usage.completion_tokens += completion if isinstance(completion, int) else 0

    def _cleaned(self, message: str) -> str:
        """One line, without the key: some servers quote it in their refusal."""
        return " ".join((message if self._api_key == _NO_KEY else message.replace(self._api_key, "***")).split())


def wire_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Canonical messages as a server takes them: arguments as JSON text, no weights, every call with an id of its own.

    Solved examples number their calls from 1 as the task does, and Mistral's servers want ids of nine letters and
    digits, so all calls are numbered afresh.

    Example:
        >>> call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": {"q": "tea"}}}
        >>> turn = {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0.0}
        >>> [sent] = wire_messages([turn])
        >>> sent["tool_calls"][0]["id"], sent["tool_calls"][0]["function"]["arguments"], "weight" in sent
        ('call00001', '{"q": "tea"}', False)
    """
    sent: list[dict[str, Any]] = []
    new_ids: dict[str, str] = {}
    count = 0
    for message in messages:
        turn: dict[str, Any] = {name: value for name, value in message.items() if name != "weight"}
        calls = []
        for call in message.get("tool_calls", ()):
            count += 1
            new_ids[call["id"]] = f"call{count:05d}"
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            calls.append({**call, "id": new_ids[call["id"]], "function": {**call["function"], "arguments": arguments}})
        if calls:
            turn["tool_calls"] = calls
        if "tool_call_id" in message:
            turn["tool_call_id"] = new_ids[message["tool_call_id"]]
        sent.append(turn)
    return sent


def message_text(message: Mapping[str, Any]) -> str:
    r"""A message of a server as the text that `parse_reply` reads: thought, words, and native calls in Hermes' tags.

    Arguments are JSON text by the protocol; some servers send an object, and some nothing for a tool without
    parameters. Arguments that are text are put in as they are, so that broken ones are seen to be broken.

    Example:
        >>> call = {"type": "function", "function": {"name": "find", "arguments": '{"q": "tea"}'}}
        >>> print(message_text({"content": "Look it up.", "tool_calls": [call]}))
        Look it up.
        <tool_call>
        {"name": "find", "arguments": {"q": "tea"}}
        </tool_call>
    """
    content = _words(message.get("content")) or _words(message.get("refusal"))
    thought = _words(message.get("reasoning_content")) or _words(message.get("reasoning"))
    calls = message.get("tool_calls") or list(filter(None, [message.get("function_call")]))
    words = [f"<think>\n{thought}\n</think>\n" if thought else "", content]
    return "\n".join(filter(None, [*words, *map(_call_text, calls if isinstance(calls, list) else [calls])]))


def _call_text(call: object) -> str:
    """A native call in Hermes' tags, whatever shape it has."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments")
    given = arguments if isinstance(arguments, str) and arguments else json.dumps(arguments or {}, ensure_ascii=False)
    name = json.dumps(function.get("name"), ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {given}}}\n</tool_call>'


def _words(value: object) -> str:
    """Words of a message: text, or a list of texts and of parts with text."""
    if isinstance(value, list):
        return "".join(_words(part.get("text") if isinstance(part, Mapping) else part) for part in value)
    return value if isinstance(value, str) else ""


def _fault(error: openai.APIError, base_url: str, requests: int, timeout: float) -> str:
    """Why a server gave no reply, and what to do about it."""
    import openai

    asked = f"{shown_address(base_url)}, asked {requests} times" if requests > 1 else shown_address(base_url)
    if isinstance(error, openai.APITimeoutError):
        return f"{asked}: no reply within {timeout:g} s; raise timeout, or run fewer episodes at once"
    if not isinstance(error, openai.APIStatusError):
        cause = error.__cause__ or error
        return f"{asked}: no connection ({type(cause).__name__}: {cause}); is the server running, and base_url right?"
    said = _said(error.body) or error.message
    hint = _HINTS.get(error.status_code, "see the server's log")
    if error.status_code == 404 and not urlsplit(base_url).path.strip("/"):
        hint = f"most servers want a base_url that ends in /v1: try {shown_address(base_url).rstrip('/')}/v1"
    elif error.status_code in (400, 422):
        hint = "check the model's name, the settings and extra_body"
        if "tool" in said:
            hint = "calls='text' works with servers that cannot take tools"
    return f"{asked}: status {error.status_code}: {said:.300}; {hint}"


def _no_completion(body: Mapping[str, Any], text: str, base_url: str, requests: int) -> str:
    found = _said(body) or repr(text[:100])
    asked = f"{shown_address(base_url)}, asked {requests} times" if requests > 1 else shown_address(base_url)
    return f"{asked}: expected a chat completion with choices, found {found:.300}; check base_url and the server's log"


def _said(body: object) -> str:
    """The server's own message in the body of a reply, "" when there is none."""
    while isinstance(body, Mapping):
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), "")
    return body if isinstance(body, str) else json.dumps(body, default=str)


def _json_object(text: str) -> dict[str, Any]:
    """The body of a reply, empty when it is no JSON object."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _server(base_url: str, who: str) -> str:
    """The address, checked: a missing scheme is the commonest slip."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{who}: base_url={base_url!r}: expected an address such as http://localhost:8000/v1")
    return base_url


def _no_key(base_url: str, who: str) -> str:
    if urlsplit(base_url).hostname == _OPENAI_HOST:
        raise ConfigError(f"{who}: no API key; set OPENAI_API_KEY or give api_key, or the base_url of a server")
    return _NO_KEY


def _key(key: str, who: str) -> str:
    """The key without the line end of the file it came from; what no header can hold would be quoted in errors."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{who}: api_key: expected one word of ASCII characters; see OPENAI_API_KEY")
    return key


def shown_address(base_url: str) -> str:
    """The address without a password that may stand in it."""
    parts = urlsplit(base_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def check_range(
    name: str, value: object, low: float, high: float | None = None, *, whole: bool = False, optional: bool = True
) -> None:
    """Refuse a setting that is no number, or out of range; `name` says whose and which it is.

    Raises:
        ConfigError: with what was expected.
    """
    if value is None and optional:
        return
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= (high or math.inf):
        expected = f"a {'whole ' if whole else ''}number of at least {low:g}{f' and at most {high:g}' if high else ''}"
        raise ConfigError(f"{name}={value!r}: expected {expected}{' or None' if optional else ''}")
