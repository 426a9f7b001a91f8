from __future__ import annotations

import pytest

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS
from sage.libs.finetune.agent.sources.importers.weights import read_weight, refuse_row_switches
from sage.libs.finetune.agent.sources.rows import read_sample


def weight(role="assistant", **switches):
    return read_weight({"role": role, "content": "", **switches}, "f:1: messages[0]").get("weight")


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, None),
        ({"weight": 0}, 0), ({"weight": 1}, 1), ({"weight": 0.5}, 0.5), ({"weight": 2}, 2), ({"weight": None}, None),
        ({"train": True}, 1.0), ({"train": False}, 0.0), ({"train": None}, None),
        ({"loss": True}, 1.0), ({"loss": False}, 0.0), ({"loss": None}, None), ({"loss": 0.3}, 0.3), ({"loss": 0}, 0.0),
        ({"loss_mask": 1}, 1.0), ({"loss_mask": 0}, 0.0), ({"loss_mask": False}, 0.0),
        ({"train": False, "weight": 0, "loss": False, "loss_mask": 0}, 0.0),
        ({"train": True, "weight": 0.5}, 0.5), ({"train": True, "loss": None}, 1.0), ({"weight": 1, "loss_mask": 1}, 1),
    ],
)  # fmt: skip
def test_every_switch_becomes_the_weight(switches, expected):
    assert weight(**switches) == expected


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"train": True, "weight": 0}, "the switches disagree (weight 0, train True); keep one of them"),
        ({"loss": False, "loss_mask": 1}, "the switches disagree (loss False, loss_mask 1)"),
        ({"weight": 0.5, "loss_mask": 1}, "the switches disagree"),
        ({"weight": 0.5, "loss": False}, "the switches disagree"),
        ({"role": "user", "train": True}, ".train: only assistant turns are trained on; take it off the user turn"),
        ({"role": "tool", "weight": 0.5}, ".weight: only assistant turns are trained on"),
        ({"loss_mask": [0, 1, 1]}, ".loss_mask: a list of switches within a message is not supported; give each"),
        ({"weight": True}, ".weight: expected a finite number from 0 up, found True"),
        ({"weight": -1}, ".weight: expected a finite number from 0 up, found -1"),
        ({"weight": 10**400}, ".weight: expected a finite number from 0 up, found 1000"),
        ({"train": "false"}, ".train: expected true, false, 1, 0 or null, found 'false'"),
        ({"loss_mask": 0.5}, ".loss_mask: expected true, false, 1, 0 or null, found 0.5"),
        ({"loss": -1}, ".loss: expected true, false, a number from 0 up or null, found -1"),
    ],
)
def test_a_switch_that_cannot_be_followed_is_refused(switches, message):
    with pytest.raises(DataError) as caught:
        weight(**switches)
    assert str(caught.value).startswith("f:1: messages[0]") and message in str(caught.value)


def test_a_turn_of_another_may_say_that_it_is_not_trained_on():
    assert weight(role="user", loss=False) is None and weight(role="user", loss=None, weight=0) is None


@pytest.mark.parametrize("row", [{"loss_mask": [0, 1]}, {"loss_mask": 1}, {"train": False}, {"weights": [1, 0]}])
def test_a_switch_for_a_whole_row_says_what_is_supported(row):
    with pytest.raises(DataError, match=r"f:1: \w+: a switch for a whole row is not supported; give each assistant"):
        refuse_row_switches(row, "f:1")
    refuse_row_switches({"loss": 0.7, "weight": 2, "loss_mask": None}, "f:1")  # measured, or a weight among rows


def chat(answer, **switch):
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer, **switch}]}


SAYS = {
    "chat": lambda **switch: chat("b", **switch),
    "anthropic": lambda **switch: chat([{"type": "text", "text": "b"}], **switch),
    "react": lambda **switch: chat("Final Answer: b", **switch),
    "sharegpt": lambda **switch: {
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", **switch}]
    },
}


@pytest.mark.parametrize("name", list(SAYS))
def test_every_importer_with_messages_reads_every_switch_and_adds_none(name):
    def last(**switch):
        return read_sample(IMPORTERS[name].read(SAYS[name](**switch), "f:1"), "f:1")["messages"][-1]

    assert "weight" not in last()
    for switch in ({"weight": 0}, {"train": False}, {"loss": False}, {"loss_mask": 0}):
        found = last(**switch)
        assert found["weight"] == 0 and not {"train", "loss", "loss_mask"} & found.keys()
    with pytest.raises(DataError, match="disagree"):
        last(train=True, loss=False)
    with pytest.raises(DataError, match="loss_mask: a switch for a whole row"):
        IMPORTERS[name].read({**SAYS[name](), "loss_mask": [1]}, "f:1")
