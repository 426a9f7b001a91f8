"""Environments by name, the user's own file among them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sage.libs.finetune.agent.environments.desk import SPLITS, DeskEnvironment, DeskExpert, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.environments.known import environment_named
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import Environment

OWN = '''
from dataclasses import dataclass

from beside import NUMBER


@dataclass
class Door:
    open: bool = False

    def reset(self, task):
        return "A door."

    def step(self, action, action_input):
        return f"{action} {NUMBER}", 0.0, False


def make_door():
    return Door()


def tasks(split, n, seed):
    return [{"instruction": f"{split} {seed} {i}"} for i in range(n)]


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def judge(task, answer):
    return answer == "right"


class Sums:
    def double(self, a: int) -> int:
        """Double.

        Args:
            a: What.
        """
        return 2 * a


ADD = [add]
A_DOOR = Door()
SEVEN = 7
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("NUMBER = 3\n")
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return f"python:{tmp_path / 'own.py'}"


def test_the_desk() -> None:
    desk = environment_named("desk")
    assert isinstance(desk.make_environment(), DeskEnvironment) and desk.splits == SPLITS and desk.tools == []
    assert desk.tasks("dev", 3, 1) == desk_tasks("dev", 3, 1)
    settings = {"seed": 5, "failure_rate": 0.2}
    noisy = desk.agents["noisy"](**settings)
    assert isinstance(noisy, NoisyDeskExpert) and (noisy.seed, noisy.failure_rate) == (5, 0.2)
    assert type(desk.agents["expert"](**settings)) is DeskExpert


def test_the_others_name_their_splits_without_their_packages() -> None:
    for name in ("textcraft", "textworld-express:coin", "textworld-express:twc:numLocations=1"):
        named = environment_named(name)
        assert named.splits == ("train", "dev", "test") and list(named.agents) == ["expert"]


@pytest.mark.parametrize("name", ["Door", "make_door"])
def test_ones_own_environment(own: str, name: str) -> None:
    named = environment_named(f"{own}:{name}")
    environment = named.make_environment()
    assert isinstance(environment, Environment) and environment is not named.make_environment()
    assert environment.step("knock", {}) == ("knock 3", 0.0, False)
    assert named.tasks("test", 2, 9) == [{"instruction": "test 9 0"}, {"instruction": "test 9 1"}]
    assert not named.agents and not named.tools


def test_ones_own_functions(own: str) -> None:
    named = environment_named(f"{own}:ADD")
    [tool] = named.tools
    environment = named.make_environment()
    assert isinstance(environment, Environment)
    environment.reset({"instruction": "Add.", "tools": named.tools})
    assert environment.step(tool["function"]["name"], {"a": 1, "b": 2})[0] == "3"
    assert environment.step("finish", {"answer": "right"})[3] is True
    assert environment_named(f"{own}:Sums").tools[0]["function"]["name"] == "double"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Dor", "own.py: has no 'Dor'; did you mean 'Door'? it has dataclass, NUMBER, Door, make_door, tasks, add"),
        ("A_DOOR", "'A_DOOR' is one environment for all episodes; give a class or a function making one"),
        ("SEVEN", "'SEVEN' is a int; expected a class with reset and step, a function that makes such an environment"),
        ("", "expected python:FILE.py:NAME"),
    ],
)
def test_what_is_no_environment(own: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment_named(f"{own}:{name}")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(
        ConfigError, match=r"broken\.py: cannot be imported: ModuleNotFoundError: No module named 'nowhere"
    ):
        environment_named(f"python:{tmp_path}/broken.py:X")
    with pytest.raises(ConfigError, match=r"gone\.py: is no Python file; give python:FILE.py:NAME"):
        environment_named(f"python:{tmp_path}/gone.py:X")


def test_a_file_without_tasks(tmp_path: Path) -> None:
    (tmp_path / "door.py").write_text(OWN.replace("def tasks(", "def no_tasks(").replace("from beside import", "# "))
    named = environment_named(f"python:{tmp_path}/door.py:Door")
    with pytest.raises(
        ConfigError, match=r"door.py: has no function tasks\(split, n, seed\); write one, or give a file"
    ):
        named.tasks("train", 1, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {}['x']", r"own.py: tasks\('train', 2, 0\) raised KeyError: 'x'; --debug shows where"),
        ("raise SystemExit(3)", r"own.py: tasks\('train', 2, 0\) raised SystemExit: 3; --debug shows where"),
        ("return None", r"own.py: tasks\('train', 2, 0\): expected a list of tasks, found NoneType"),
    ],
)
def test_tasks_of_ones_own_that_fail_are_one_line(tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "own.py").write_text(f"class E:\n    reset = step = print\ndef tasks(split, n, seed):\n    {body}\n")
    with pytest.raises(ConfigError, match=message):
        environment_named(f"python:{tmp_path}/own.py:E").tasks("train", 2, 0)


def test_no_more_tasks_than_asked_for_are_taken(tmp_path: Path) -> None:
    body = "import itertools\n    return ({'instruction': str(i)} for i in itertools.count())"
    (tmp_path / "own.py").write_text(f"class E:\n    reset = step = print\ndef tasks(split, n, seed):\n    {body}\n")
    assert len(environment_named(f"python:{tmp_path}/own.py:E").tasks("train", 2, 0)) == 2


def test_a_file_that_leaves_the_program_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit(4)\n")
    with pytest.raises(ConfigError, match=r"own\.py: cannot be imported: SystemExit: 4"):
        environment_named(f"python:{tmp_path}/own.py:E")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dsek", "did you mean 'desk'? "),
        ("textworld-express", "did you mean 'textworld-express'? "),
        ("webshop", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_lists_the_known(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment_named(name)
    line = f"unknown environment '{name}'; {near}known: desk, textcraft, textworld-express:GAME, python:FILE.py:NAME"
    assert str(caught.value) == line
