from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.tokenization.template import TemplateChoice
from sage.libs.finetune.agent.training import ask


@pytest.fixture(autouse=True)
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing here may come to generating."""
    monkeypatch.setattr(ask, "_ask", lambda *_: pytest.fail("generated before the rows were checked"))
    yield


def ask_turns(data: Any, max_length: int = 512) -> None:
    choice = TemplateChoice("chatml_tools", "compact", "test")
    loaded = LoadedModel(tiny_model(), tiny_tokenizer(), choice, "tiny")
    ask.ask_turns(loaded, data, max_length=max_length, max_new_tokens=4, batch_size=2, progress=lambda *_: None)


GOOD = conversation("desk", "1")
LONG = {**GOOD, "messages": [{"role": "user", "content": "tea " * 600}, *GOOD["messages"][1:]]}
HEADLESS = {**GOOD, "messages": GOOD["messages"][1:]}


@pytest.mark.parametrize(
    ("row", "message"),
    [(LONG, r"a row needs \d+ tokens .*, 512 are allowed"), (HEADLESS, "message 0: a conversation begins with")],
)
def test_a_row_that_cannot_be_rendered_is_named_before_anything_is_generated(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"evaluation data, row 2: {message}"):
        ask_turns([GOOD, row])


def test_the_file_of_such_a_row_is_named(rows_file: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1: a row needs"):
        ask_turns(rows_file, max_length=32)


def test_rows_that_lose_every_trained_turn_have_no_loss() -> None:
    question, call, observation, answer = GOOD["messages"]
    shown = [question, call, {**observation, "content": "tea " * 400}, {**answer, "weight": 0}]
    with pytest.raises(DataError, match="evaluation data: only turns of weight 0 are left in 256 tokens"):
        ask_turns([{**GOOD, "messages": [*shown, question, {**answer, "weight": 0}]}], max_length=256)
