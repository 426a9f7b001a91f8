import asyncio
import json
import logging
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from tests.tiny import tiny_model

from sage.libs.finetune.agent.capabilities.repliers import replier_of
from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.models.chat_endpoint import EndpointError
from sage.libs.finetune.agent.tokenization.parse import parse_reply

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": '{"q": "tea"}'}}
FIND = ("find", {"q": "tea"})


def item(text="tea", tools=()):
    return {"id": text, "messages": [{"role": "user", "content": text}], "tools": list(tools)}


def texts(model, items=None, **settings):
    return [reply.text for reply in replier_of(model, **settings).replies(items or [item()])]


def calls(text):
    return [(call.name, call.arguments) for call in parse_reply(text).calls]


class Chats:
    def chat(self, messages):
        return f"chat: {messages[-1]['content']}"

    def generate(self, messages):
        return "generate"


class Generates:
    def generate(self, messages, tools=None):
        return f"{len(tools)} tools"


async def awaits(messages):
    await asyncio.sleep(0)
    return messages[-1]["content"]


def second(messages, shown):
    return f"{len(shown)} tools"


def untold(messages, temperature=1.0):
    return f"{temperature}"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda messages: messages[0]["content"], "tea"),
        (lambda messages, tools: str(len(tools)), "1"),
        (lambda messages, **options: str(options), "{}"),
        (second, "1 tools"),
        (untold, "1.0"),
        (awaits, "tea"),
        (Chats(), "chat: tea"),
        (Generates(), "1 tools"),
    ],
)
def test_what_can_be_asked(model, text):
    assert texts(model, [item(tools=[TOOL])]) == [text]


MESSAGE = {"role": "assistant", "content": "Look it up.", "tool_calls": [CALL]}
FUNCTION = SimpleNamespace(name="find", arguments='{"q": "tea"}')


@pytest.mark.parametrize(
    "reply",
    [
        MESSAGE,
        {"choices": [{"message": MESSAGE}]},
        SimpleNamespace(content="Look it up.", tool_calls=[SimpleNamespace(function=FUNCTION)]),  # the openai client's
        SimpleNamespace(content="Look it up.", tool_calls=[{"name": "find", "args": {"q": "tea"}}]),  # LangChain's
    ],
)
def test_native_calls_become_text_that_is_read_back(reply):
    [text] = texts(lambda messages: reply)
    assert text.startswith("Look it up.\n") and calls(text) == [FIND]


def test_words_of_a_message():
    assert texts(lambda messages: {"content": None}) == [""]
    assert texts(lambda messages: SimpleNamespace(content="4", reasoning_content="2 + 2")) == [
        "<think>\n2 + 2\n</think>\n\n4"
    ]
    broken = {**CALL, "function": {"name": "find", "arguments": '{"q"'}}
    [text] = texts(lambda messages: {"content": "", "tool_calls": [broken]})
    assert parse_reply(text).error is not None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_that_raises_fails_on_that_item_alone(asynchronous):
    def ask(messages):
        if messages[0]["content"] == "bad":
            raise ValueError("no\nway")
        return "good"

    async def ask_later(messages):
        return ask(messages)

    items = [item("a"), item("bad"), item("c")]
    told = []
    replies = replier_of(ask_later if asynchronous else ask).replies(items, told.append)
    assert [reply.text for reply in replies] == ["good", "", "good"]
    assert [reply.error for reply in replies] == [None, "ValueError: no way", None]
    assert told == [1, 2, 3]


def test_a_reply_that_is_none_is_an_error_and_no_empty_answer():
    [reply] = replier_of(lambda messages: None).replies([item()])
    assert reply.error == "ModelError: the reply is NoneType; expected text, a message, or an object with content"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupt_passes_through(asynchronous):
    def ask(messages):
        raise KeyboardInterrupt

    async def ask_later(messages):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replier_of(ask_later if asynchronous else ask).replies([item("a"), item("b")])


def test_the_items_are_not_the_model_s_to_change():
    def ask(messages):
        messages[0]["content"] = "changed"
        messages.clear()
        return ""

    asked = item()
    texts(ask, [asked])
    assert asked == item()


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (5, "model: int cannot reply; expected a trainer"),
        ("http://localhost:8000/v1", "which of its models? write http://localhost:8000/v1#NAME"),
        ("http://me:secret@localhost/v1", "model http://localhost/v1: which"),
        (tiny_model(), "LlamaForCausalLM was saved nowhere, so give its tokenizer"),
    ],
)
def test_what_cannot_reply_is_said_before_anything_is_asked(model, error):
    with pytest.raises(ConfigError) as caught:
        replier_of(model)
    assert error in str(caught.value)


def test_a_folder_that_is_not_there():
    with pytest.raises(ModelError, match="does not exist"):
        replier_of("./no-such-folder")


# Servers


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(asked)
        status, body = self.server.answer(asked)
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def server(answer):
    """An OpenAI-compatible server that answers `answer(request) -> (status, body)`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answer, running.asked = answer, []
        running.handle_error = lambda *_: None  # a client that gave up
        running.url = f"http://127.0.0.1:{running.server_port}/v1"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def completion(message, reason="stop"):
    return 200, {"choices": [{"message": message, "finish_reason": reason}]}


def test_a_server_is_asked_natively_and_its_calls_are_read():
    def answer(asked):
        if asked["messages"][-1]["content"] == "tea":
            return completion(MESSAGE, "tool_calls")
        return completion({"content": "I do not"}, "length")

    with server(answer) as running:
        replier = replier_of(f"{running.url}#tiny", max_new_tokens=7)
        told = []
        first, second = replier.replies([item("tea", [TOOL]), item("coffee")], told.append)
    assert calls(first.text) == [FIND] and not first.cut and first.seconds > 0
    assert (second.text, second.cut) == ("I do not", True) and told == [1, 2]
    asked = {request["messages"][-1]["content"]: request for request in running.asked}
    assert asked["tea"]["tools"] == [TOOL] and "tools" not in asked["coffee"]
    assert (asked["tea"]["model"], asked["tea"]["temperature"], asked["tea"]["max_tokens"]) == ("tiny", 0.0, 7)
    assert replier.name == f"tiny at {running.url}"


def test_no_more_requests_at_once_than_allowed():
    lock, now, most = threading.Lock(), [0], [0]
    gate = threading.Barrier(3)

    def answer(asked):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        gate.wait(30)  # nobody goes on before three are here
        with lock:
            now[0] -= 1
        return completion({"content": asked["messages"][-1]["content"]})

    with server(answer) as running:
        items = [item(str(at)) for at in range(9)]
        assert texts(f"{running.url}#tiny", items, concurrency=3) == [one["id"] for one in items]
    assert most[0] == 3


def test_a_server_that_refuses_everything_is_asked_eight_times():
    refusal = 401, {"error": {"message": "no such key 123"}}
    with server(lambda asked: refusal) as running, pytest.raises(EndpointError) as caught:
        texts(f"{running.url}#tiny", [item(str(at)) for at in range(50)], concurrency=2)
    assert "status 401: no such key 123" in str(caught.value)
    assert str(caught.value).endswith("(stopped: 8 replies in a row failed so)")
    assert len(running.asked) < 20


def test_a_server_that_refuses_one_item_replies_to_the_others(caplog):
    def answer(asked):
        text = asked["messages"][-1]["content"]
        return (400, {"error": {"message": "too long"}}) if text == "3" else completion({"content": text})

    with caplog.at_level(logging.ERROR), server(answer) as running:
        replies = replier_of(f"{running.url}#tiny").replies([item(str(at)) for at in range(12)])
    assert [reply.text for reply in replies] == [*"012", "", *map(str, range(4, 12))]
    assert "EndpointError: " in replies[3].error and "status 400: too long" in replies[3].error


def test_a_model_that_rewrites_its_tools_is_scored_by_the_true_ones():
    asked = item(tools=[{"type": "function", "function": {"name": "find", "parameters": {}}}])
    [text] = texts(lambda messages, tools: tools[0]["function"].pop("name"), [asked])
    assert text == asked["tools"][0]["function"]["name"] == "find"


def test_a_coroutine_function_with_settings_is_still_one():
    async def answers(messages, word):
        return word

    assert texts(partial(answers, word="tea")) == ["tea"]


@pytest.mark.parametrize(
    "content", [5, {"text": "4"}, [SimpleNamespace(text="4")], [{"type": "tool_use", "name": "find"}]]
)
def test_content_that_cannot_be_read_is_an_error_and_no_empty_answer(content):
    for reply in ({"content": content}, SimpleNamespace(content=content)):
        [found] = replier_of(lambda messages, reply=reply: reply).replies([item()])
        assert found.error is not None and found.error.startswith("ModelError: the content of the reply is")


def test_content_in_parts_is_read():
    assert texts(lambda messages: {"content": ["2 ", {"type": "text", "text": "+ 2"}]}) == ["2 + 2"]
    assert texts(lambda messages: {"content": [{"type": "text", "text": ""}]}) == [""]


@pytest.mark.parametrize("choice", [{}, {"message": None}, {"text": "4"}, {"message": {"content": 5}}])
def test_a_server_without_a_message_is_an_error_and_no_empty_answer(choice):
    with server(lambda asked: (200, {"choices": [choice]})) as running:
        [reply] = replier_of(f"{running.url}#tiny").replies([item()])
    assert reply.error is not None and reply.error.startswith("ModelError: ")


def test_a_server_that_has_replied_is_not_given_up():
    with server(lambda asked: completion({"content": "4"})) as running:
        replier = replier_of(f"{running.url}#tiny")
        assert replier.replies([item()])[0].text == "4"
        running.answer = lambda asked: (400, {"error": {"message": "too long"}})
        assert all("too long" in reply.error for reply in replier.replies([item(str(at)) for at in range(9)]))


def dying(after, refusal):
    """A server that replies so often, and then refuses."""
    count = iter(range(10**6))
    return server(lambda asked: completion({"content": "4"}) if next(count) < after else refusal)


def test_a_server_that_dies_midway_is_given_up_and_what_it_said_is_kept():
    with dying(5, (403, {"error": {"message": "request 12: no credit"}})) as running:
        replier = replier_of(f"{running.url}#tiny", concurrency=1)
        told = []
        replies = replier.replies([item(str(at)) for at in range(40)], told.append)
        assert [reply.text for reply in replies[:5]] == ["4"] * 5 and told[-1] == 40
        assert all("status 403: request 12: no credit" in reply.error for reply in replies[5:])
        assert [reply.error.endswith("(given up: 8 replies in a row failed so)") for reply in replies[12:]] == [
            False,
            *[True] * 27,
        ]
        before = len(running.asked)
        assert before < 16
        again = replier.replies([item(str(at)) for at in range(9)])  # the next capability: it had its chance
        assert all(reply.error for reply in again) and len(running.asked) < before + 4
        running.answer = lambda asked: completion({"content": "5"})
        assert replier.replies([item()])[0].text == "5"


def test_a_server_without_a_connection_any_more_is_given_up(monkeypatch):
    with dying(3, (500, {})) as running:
        replier = replier_of(f"{running.url}#tiny", concurrency=2)
        replier.endpoint._max_retries = 0  # else each waits for 24 s
        errors = [reply.error for reply in replier.replies([item(str(at)) for at in range(30)])]
    failed = [error for error in errors if error is not None]
    assert len(failed) == 30 - 3 and all("status 500" in error for error in failed)
    assert 30 - 3 - 8 - 1 <= sum("given up" in error for error in failed) <= 30 - 3 - 8  # one may be on its way


def test_refusals_of_single_requests_do_not_end_it():
    with dying(1, (400, {"error": {"message": "too long"}})) as running:
        replies = replier_of(f"{running.url}#tiny", concurrency=1).replies([item(str(at)) for at in range(30)])
    assert len(running.asked) == 30 and not any("given up" in (reply.error or "") for reply in replies)


def test_failures_for_changing_reasons_do_not_end_it():
    count = iter(range(10**6))
    with server(lambda asked: (403, {"error": {"message": "ab"[next(count) % 2]}})) as running:
        replies = replier_of(f"{running.url}#tiny", concurrency=1).replies([item(str(at)) for at in range(20)])
    assert len(replies) == len(running.asked) == 20 and all(reply.error for reply in replies)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_replies_before_an_interrupt_are_there(asynchronous):
    def ask(messages):
        if messages[0]["content"] == "2":
            raise KeyboardInterrupt
        return messages[0]["content"]

    async def ask_later(messages):
        return ask(messages)

    replier = replier_of(ask_later if asynchronous else ask, concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        replier.replies([item(str(at)) for at in range(4)])
    assert {at: reply.text for at, reply in replier.so_far.items()} == {0: "0", 1: "1"}
