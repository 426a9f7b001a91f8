import asyncio
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.trajectories.dialogue import Dialogue
from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent, Usage, wire_messages
from sage.libs.finetune.agent.trajectories.protocols import read_decision
from sage.libs.finetune.agent.trajectories.replies import read_reply

TASK = {"task_id": "t", "instruction": "What is 1 + 2?"}
URL = "http://localhost:1/v1"


def read(message, finish_reason="stop", dialogue=None):
    decision = (dialogue or Dialogue()).read_choice({"message": message, "finish_reason": finish_reason}, TASK)
    assert read_decision(decision) is not None  # every one is a decision the collector takes
    return decision


def call(name="add", arguments='{"a": 1}'):
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_native_call_is_the_step():
    decision = read({"content": "I add.", "tool_calls": [call()]}, "tool_calls")
    assert (decision["thought"], decision["action"], decision["action_input"]) == ("I add.", "add", {"a": 1})
    assert decision["reply"] == 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def test_of_parallel_calls_the_first_is_made_and_all_are_kept():
    decision = read({"content": None, "tool_calls": [call(), call("sub")]})
    assert decision["action"] == "add" and decision["thought"] == ""
    assert [made.name for made in parse_reply(decision["reply"]).calls] == ["add", "sub"]


@pytest.mark.parametrize(
    ("arguments", "read_as"),
    [("", {}), (None, {}), ("{}", {}), ({"a": 1}, {"a": 1}), (' {"a": 1} ', {"a": 1})],
)
def test_arguments_as_servers_send_them(arguments, read_as):
    assert read({"tool_calls": [call(arguments=arguments)]})["action_input"] == read_as


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('{"a": 1', "unreadable call: the call is no valid JSON: Expecting ',' delimiter at the end of the reply"),
        ("[1]", "unreadable call: the arguments of 'add' are a list; expected an object"),
        ('{"a": NaN}', "unreadable call: the call is no valid JSON: NaN is no JSON value"),
        ('{"a": 1} {"b": 2}', "unreadable call: the arguments of 'add' go on after their JSON: ' {\"b\": 2}'"),
    ],
)
def test_arguments_that_cannot_be_read_are_a_step_with_their_text(arguments, error):
    decision = read({"content": "I add.", "tool_calls": [call(arguments=arguments)]}, "tool_calls")
    assert (decision["action"], decision["error"]) == ("invalid", error)
    assert decision["reply"] == f'I add.\n<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("message", "finish_reason", "error"),
    [
        ({"content": "The total is 84, and"}, "length", "cut off at the token limit"),
        ({"content": "", "tool_calls": [call(arguments='{"a"')]}, "length", "cut off at the token limit"),
        ({"content": ""}, "content_filter", "withheld by the server's content filter"),
        ({"content": None}, "stop", "it says nothing"),
        ({}, None, "it says nothing"),
        (None, None, "it says nothing"),
        ({"content": "", "reasoning_content": "Hm."}, "stop", "it says nothing"),
        ({"content": "I know.\nAnswer:"}, "stop", "its answer is empty"),
        ({"tool_calls": [call("finish", '{"result": 1}')]}, "stop", "'finish' needs an 'answer'"),
    ],
)
def test_a_reply_that_is_no_step_says_why(message, finish_reason, error):
    decision = read(message, finish_reason)
    assert decision["action"] == "invalid" and decision["error"] == f"unreadable reply: {error}"


def test_words_are_the_answer():
    assert read({"content": "So 3.\nAnswer: 3"})["action_input"] == {"answer": "3"}
    assert read({"content": [{"type": "text", "text": "3"}]})["action_input"] == {"answer": "3"}
    assert read({"content": None, "refusal": "I will not."})["action_input"] == {"answer": "I will not."}


def test_a_call_that_the_server_left_in_the_text_is_made():
    assert read({"content": '<tool_call>{"name": "add", "arguments": {}}</tool_call>'})["action"] == "add"
    assert read({"function_call": {"name": "add", "arguments": "{}"}})["action"] == "add"  # the deprecated form


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_what_a_reasoning_model_thought_is_kept(field):
    decision = read({field: "Two numbers.", "content": "I add.", "tool_calls": [call()]})
    assert decision["thought"] == "Two numbers.\n\nI add."
    assert decision["reply"].startswith("<think>\nTwo numbers.\n</think>\n\nI add.")
    assert read_reply(decision["reply"]) == decision  # the reply says all there is to the step
    answer = read({field: "1 + 2 is 3.", "content": "3"})
    assert (answer["thought"], answer["action_input"]) == ("1 + 2 is 3.", {"answer": "3"})
    assert read_reply(answer["reply"]) == answer
    lost = read({field: "Hm.", "content": "The", "tool_calls": None}, "length")
    assert lost["reply"] == "<think>\nHm.\n</think>\n\nThe"
    assert read({"content": "<think>Two numbers.</think>I add.", "tool_calls": [call()]})["thought"] == (
        "Two numbers.\n\nI add."
    )


def test_chain_of_thought_refuses_calls_that_nobody_offered():
    assert read({"tool_calls": [call()]}, dialogue=Dialogue("cot"))["error"].startswith("unreadable reply: 'add' was")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["content", "tool_calls", "reasoning_content", "refusal"]), JSON), JSON)
def test_any_message_is_a_decision(message, finish_reason):
    assert read(message, finish_reason)["reply"] is not None


@given(JSON)
def test_any_call_is_a_decision(function):
    decision = read({"tool_calls": [{"function": function}]})
    assert decision["action"] == "invalid" or decision["action"] == function["name"]


def test_messages_on_the_wire_have_ids_of_their_own():
    turn = {"role": "assistant", "content": "", "tool_calls": [{**call(), "id": "call00001"}], "weight": 0.0}
    turn["tool_calls"][0]["function"]["arguments"] = {"q": "Tee für zwei"}
    answer = {"role": "tool", "tool_call_id": "call00001", "name": "add", "content": "3"}
    sent = wire_messages([turn, answer, turn, answer])
    ids = ["call00001", "call00002"]  # an example before the task numbers its calls from 1, too
    assert [message["tool_calls"][0]["id"] for message in sent[::2]] == ids
    assert [message["tool_call_id"] for message in sent[1::2]] == ids
    assert json.loads(sent[0]["tool_calls"][0]["function"]["arguments"]) == {"q": "Tee für zwei"}
    assert not any("weight" in message for message in sent) and turn["weight"] == 0.0


def test_each_sample_asks_with_a_seed_of_its_own():
    agent = EndpointAgent("m", base_url=URL, seed=7, temperature=0.5, top_p=0.9, max_tokens=5)
    prompt = Dialogue().prompt(TASK, [])
    assert agent._request(prompt, TASK) == {
        "model": "m",
        "messages": [{"role": "user", "content": "What is 1 + 2?"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 5,
        "seed": 7,
    }
    assert agent._request(prompt, {**TASK, "metadata": {"sample": 2}})["seed"] == 9
    assert "seed" not in EndpointAgent("m", base_url=URL)._request(prompt, TASK)


def test_openai_itself_is_told_the_limit_by_its_new_name(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    request = EndpointAgent("m", api_key="k", max_tokens=5)._request(Dialogue().prompt(TASK, []), TASK)
    assert request["max_completion_tokens"] == 5 and "max_tokens" not in request


def test_address_and_key_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    assert EndpointAgent("m").base_url == "http://127.0.0.1:9/v1"
    assert EndpointAgent("m")._api_key == "sk-env"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert EndpointAgent("m")._api_key == "EMPTY"
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(ConfigError, match="no API key; set OPENAI_API_KEY or give api_key, or the base_url of a serv"):
        EndpointAgent("m")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url='localhost:8000/v1': expected an address such as http://"),
        ({"base_url": "http://[/v1"}, "expected an address"),
        ({"temperature": -1}, "temperature=-1: expected a number of at least 0 and at most 100 or None"),
        ({"top_p": 2}, "top_p=2: expected a number of at least 0 and at most 1 or None"),
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number of at least 1 or None"),
        ({"max_retries": None}, "max_retries=None: expected a whole number of at least 0"),
        ({"timeout": 0}, "timeout=0: expected a number of at least 0.001"),
        ({"seed": True}, "seed=True: expected a whole number of at least 0 or None"),
        ({"strategy": "react!"}, "unknown strategy 'react!'"),
        ({"model": ""}, "model='': expected the model's name on the server"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, error):
    with pytest.raises(ConfigError) as caught:
        EndpointAgent(**{"model": "m", "base_url": URL, **settings})
    assert error in str(caught.value) and "\n" not in str(caught.value)


def test_the_key_is_never_shown_and_clients_do_not_travel():
    agent = EndpointAgent("m", base_url="http://me:pass@localhost:1/v1", api_key="sk-secret", strategy="react")
    assert "sk-secret" not in repr(agent) and "pass" not in repr(agent)

    async def connect():
        return agent._client()

    asyncio.run(connect())
    again = pickle.loads(pickle.dumps(agent))
    assert (len(agent._clients), len(again._clients)) == (1, 0)
    assert (again.model, again.method, again.usage) == ("m", "react", Usage())


def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch):
    """The HTTP client would quote the header it refuses: in the log, and in the error that goes to the file."""
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret\n")
    assert EndpointAgent("m", base_url=URL)._api_key == "sk-secret"  # the line end of a file is no part of the key
    for key in ("sk-se\ncret", "sk-se\x00cret", "sk-sécret", "sk secret", "\n"):
        with pytest.raises(ConfigError, match=r"^EndpointAgent: api_key: expected one word of ASCII characters; see"):
            EndpointAgent("m", base_url=URL, api_key=key)


def test_usage_is_a_copy():
    agent = EndpointAgent("m", base_url=URL)
    agent._count(3, {"prompt_tokens": 5, "completion_tokens": "many"})
    agent.usage.requests = 100
    assert agent.usage == Usage(prompt_tokens=5, completion_tokens=0, requests=3, retries=2)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package openai; run: pip install 'sage-libs\[openai\]'"):
        EndpointAgent("m", base_url=URL)


def test_an_endpoint_needs_neither_torch_nor_the_client_until_it_is_asked():
    code = (
        "import sys; from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent;"
        f"EndpointAgent('m', base_url='{URL}');"
        "print([m for m in ('torch', 'transformers', 'numpy', 'openai') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
