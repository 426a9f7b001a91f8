"""chat: a tiny model that has learnt one conversation by heart, typed to from a pipe."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model, tiny_tokenizer

from sage.libs.finetune.agent.cli.conversation import Conversation
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.tokenization.render import render, render_prompt

PARAMETERS = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "", "parameters": PARAMETERS}}]


def call(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": arguments}}


def lesson(question: str, arguments: dict[str, Any], observation: str, answer: str) -> Any:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [call(arguments)]},
            {"role": "tool", "tool_call_id": "call00001", "name": "find", "content": observation},
            {"role": "assistant", "content": answer},
        ],
        "tools": TOOLS,
    }


LESSONS = [
    lesson("price of tea", {"q": "tea"}, "12", "The price is 12."),
    lesson("order", {"limit": 3}, "error", "The order was sent."),
    {"messages": [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "The tea."}]},
    {
        "messages": [
            {"role": "user", "content": "call"},
            {"role": "assistant", "content": '{"name": "x", "arguments": {}}'},
        ]
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says what `LESSONS` say."""
    tokenizer, model = tiny_tokenizer(), tiny_model().train()
    rows = [render(sample, tokenizer) for sample in LESSONS]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        for row in rows:
            ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    path = tmp_path_factory.mktemp("chat")
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def talk(cli: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))

    def run(*flags: object, typed: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return cli("chat", folder, "--dtype", "float32", "--max-new-tokens", 40, *flags)

    return run


def test_each_line_of_a_pipe_is_a_turn(talk: Any) -> None:
    code, out, _ = talk(typed="tea\n\n/reset\ntea\n/nothing\n")
    assert code == 0
    assert out.splitlines() == [
        "The tea.",
        "(a new conversation)",
        "The tea.",
        "there is no /nothing; there are /reset, /save FILE.jsonl, /quit",
    ]


def test_the_user_says_what_comes_of_a_call(talk: Any, cli: Any) -> None:
    code, out, _ = talk("--tools", "tools.json", typed="price of tea\n12\n/save rows.jsonl\n")
    assert code == 0
    assert out.splitlines() == [
        'call find {"q": "tea"}',
        "The price is 12.",
        "saved as row 1 of rows.jsonl",
    ]
    [row] = map(json.loads, Path("rows.jsonl").read_text().splitlines())
    assert row["messages"] == LESSONS[0]["messages"] and row["tools"] == TOOLS
    assert cli("data", "validate", "rows.jsonl").code == 0


def test_a_call_that_does_not_fit_says_why_and_is_not_learnt_from(talk: Any) -> None:
    code, out, _ = talk("--tools", "tools.json", "--json", typed="order\n\n/quit\n")
    said = json.loads(out)
    assert code == 0 and said["messages"][1]["weight"] == 0.0
    assert said["messages"][2]["content"] == "error: 'q' is a required property"
    assert said["messages"][3]["role"] == "assistant"


def test_with_json_the_talk_goes_to_stderr(talk: Any) -> None:
    code, out, err = talk("--json", typed="tea\n")
    assert code == 0 and err.splitlines()[-1] == "The tea."
    assert [message["role"] for message in json.loads(out)["messages"]] == ["user", "assistant"]


ENVIRONMENT = """
class Shop:
    def reset(self, task):
        return ""

    def step(self, action, action_input):
        if action == "finish":
            return "", 1.0, True, action_input["answer"] == "The price is 12."
        return "12", 0.5, False

def tasks(split, n, seed):
    tools = {tools}
    return [dict(instruction="price of tea", tools=tools), dict(instruction="tea", tools=[])][:n]
"""


def test_an_environment_carries_calls_out_and_judges(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ENVIRONMENT.replace("{tools}", repr(TOOLS)))
    code, out, _ = talk("--env", "python:shop.py:Shop", typed="/next\n/next\n")
    assert out.splitlines() == [
        "task task-0001: price of tea",
        'call find {"q": "tea"}',
        "-> 12",
        "The price is 12.",
        "the task is fulfilled (reward 1.5)",
        "task task-0002: tea",
        "The tea.",
        "the task is not fulfilled (reward 1)",
    ]
    assert code == 2  # there is no third task


def test_a_conversation_that_went_on_replaces_its_row(talk: Any) -> None:
    talk(typed="tea\n/save rows.jsonl\n\n/save rows.jsonl\n/reset\ntea\n/save rows.jsonl\n")
    assert len(Path("rows.jsonl").read_text().splitlines()) == 2


def test_an_environment_that_fails(talk: Any, tmp_path: Path) -> None:
    broken = ENVIRONMENT.replace("{tools}", repr(TOOLS)).replace('return "12", 0.5, False', 'raise OSError("gone")')
    (tmp_path / "shop.py").write_text(broken)
    code, _, err = talk("--env", "python:shop.py:Shop", typed="")
    assert code == 1 and "the environment's step raised OSError: gone" in err


def test_the_desk(talk: Any) -> None:
    code, out, _ = talk("--env", "desk", "--split", "dev", "--task", 2, "--max-steps", 1, typed="")
    assert code == 0 and out.startswith("task dev-0-0001: ")


def test_a_call_without_tools_is_shown_as_it_is(talk: Any) -> None:
    out = talk(typed="call\n/save rows.jsonl\n").out
    assert out.splitlines() == [
        '{"name": "x", "arguments": {}}',
        "(a call, but no tools are at hand)",
        "nothing to save: no whole reply yet",
    ]


def test_nothing_is_saved_before_a_reply(talk: Any) -> None:
    out = talk(typed="/save rows.jsonl\n/save\n").out
    assert out.splitlines() == ["nothing to save: no whole reply yet", "nothing to save: no whole reply yet"]
    assert not Path("rows.jsonl").exists()


def test_a_save_that_fails_ends_nothing(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\n")
    code, out, _ = talk(typed="tea\n/save latin.jsonl/rows.jsonl\n/save latin.jsonl\n/save notes.md\n/save\ntea\n")
    reply, unwritable, unreadable, *rest = out.splitlines()
    assert code == 0 and "cannot be written" in unwritable and "cannot be read" in unreadable
    assert rest == ["give a file of rows: /save FILE.jsonl"] * 2 + [reply]


def test_bytes_that_are_no_text_end_nothing(talk: Any, cli: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"te\xff\n/reset\ntea\n"), encoding="utf-8"))
    code, out, _ = cli("chat", folder, "--dtype", "float32", "--max-new-tokens", 4)
    assert code == 0 and "(a new conversation)" in out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--split", "dev"), "'split' and 'task' are for --env"),
        (("--env", "desk", "--tools", "t.json"), "'tools' and 'env' exclude each other; give one"),
        (("--env", "desk", "--split", "nope"), "environment 'desk' has no split 'nope'"),
    ],
)
def test_settings_that_do_not_fit(talk: Any, flags: tuple[str, ...], line: str) -> None:
    code, _, err = talk(*flags, typed="")
    assert code == 2 and line in err


def test_tools_must_be_a_list(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("[]")
    assert "expected a list of tools" in talk("--tools", "t.json", typed="").err


def test_only_new_tokens_are_computed(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="float32")
    conversation = Conversation(loaded, TOOLS)
    conversation.say("price of tea")
    first = conversation.reply(lambda text: None)
    assert first.cached == 0
    conversation.observe(first.calls[0], "12")
    prompt = render_prompt(conversation.messages, TOOLS, loaded.tokenizer)
    second = conversation.reply(lambda text: None)
    begun = render_prompt(conversation.messages[:1], TOOLS, loaded.tokenizer)
    assert len(begun) <= second.cached < len(prompt)


def test_ctrl_c_keeps_what_was_said_untrained(folder: Path) -> None:
    conversation = Conversation(load_model(str(folder), dtype="float32"))
    conversation.say("tea")

    def press_ctrl_c(text: str) -> None:
        if "tea" in text:
            raise KeyboardInterrupt

    reply = conversation.reply(press_ctrl_c)
    assert reply.error == "interrupted" and reply.text.startswith("The")
    assert conversation.messages[-1] == {"role": "assistant", "content": reply.text, "weight": 0.0}
    conversation.begin((), None)
    conversation.say("tea")
    assert conversation.reply(lambda text: None).content == "The tea."


def test_the_same_seed_draws_the_same_reply(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="float32")
    replies = set()
    for _ in range(2):
        conversation = Conversation(loaded, temperature=2.0, seed=3, max_new_tokens=12)
        conversation.say("order")
        replies.add(conversation.reply(lambda text: None).text)
    assert len(replies) == 1
