from __future__ import annotations

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import Registry, suggestion


@pytest.fixture
def shapes() -> Registry[int]:
    registry = Registry[int]("shape")
    registry.add("square", 4)
    registry.add("line", 2)
    return registry


def test_what_was_added_is_found(shapes: Registry[int]) -> None:
    assert (shapes["square"], shapes["line"]) == (4, 2)
    assert "square" in shapes
    assert "circle" not in shapes
    assert list(shapes) == ["line", "square"]


def test_a_name_can_be_taken_once(shapes: Registry[int]) -> None:
    with pytest.raises(ConfigError, match=r"^shape 'square' is registered already$"):
        shapes.add("square", 5)
    assert shapes["square"] == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sqare", "unknown shape 'sqare'; did you mean 'square'? known: line, square"),
        ("torus", "unknown shape 'torus'; known: line, square"),
    ],
)
def test_a_miss_lists_what_there_is(shapes: Registry[int], name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shapes[name]
    assert str(caught.value) == message


def test_suggestion() -> None:
    assert suggestion("lora_rank", ["lora_r", "batch_size"]) == "did you mean 'lora_r'? "
    assert suggestion("zzz", ["lora_r"]) == ""
    assert suggestion("x", []) == ""


def test_an_alias_finds_the_entry_and_is_not_listed() -> None:
    shapes = Registry[int]("shape")
    shapes.add("square", 4)
    shapes.alias("quad", "square")
    assert shapes["quad"] == 4 and "quad" in shapes and list(shapes) == ["square"]
    with pytest.raises(ConfigError, match="cannot stand for"):
        shapes.alias("square", "square")
