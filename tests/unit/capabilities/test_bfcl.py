import json
import sys
import zipfile

import pytest

from sage.libs.finetune.agent import ConfigError, DataError
from sage.libs.finetune.agent.capabilities.bfcl import BFCL_LABEL, CATEGORIES, PLACE, bfcl_items
from sage.libs.finetune.agent.capabilities.item_sources import items_of
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import gold_reply
from sage.libs.finetune.agent.evaluation.scorers.tool_use import CAPABILITY, score_tool_use
from sage.libs.finetune.agent.schemas.tools import tool_schema

PARAMETERS = {
    "type": "dict",
    "properties": {
        "at": {"type": "tuple", "items": {"type": "float"}, "description": "Where."},
        "type": {"type": "any", "description": "Of what type."},
        "stop": {
            "type": "dict",
            "properties": {"hours": {"type": "float"}, "tags": {"type": "array", "items": {"type": "dict"}}},
        },
    },
    "required": ["at"],
}
FUNCTION = {"name": "trip.plan", "description": "Plans.", "parameters": PARAMETERS}
QUESTION = [[{"role": "user", "content": "Plan it."}]]
TRUTH = [{"trip.plan": {"at": [[1.5, 2.0]], "type": ["Car", ""], "stop": ["", {"hours": [2, 2.5], "tags": [[]]}]}}]


def lines(*rows):
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder as in the package, named in the environment."""
    data = tmp_path / "bfcl_eval" / "data"
    (data / "possible_answer").mkdir(parents=True)
    for category in CATEGORIES:
        rows = [{"id": f"{category}_{n}", "question": QUESTION, "function": [FUNCTION]} for n in range(2)]
        (data / f"BFCL_v4_{category}.json").write_text(lines(*rows).rstrip("\n"), encoding="utf-8")
        if "relevance" not in category:
            truths = [{"id": row["id"], "ground_truth": TRUTH} for row in reversed(rows)]
            (data / "possible_answer" / f"BFCL_v4_{category}.json").write_text(lines(*truths), encoding="utf-8")
    monkeypatch.setenv(PLACE, str(tmp_path))
    return data


def test_functions_are_shown_as_json_schema_and_checked_in_bfcls_words(published):
    item = bfcl_items("multiple")[1]
    assert (item["id"], item["messages"]) == ("multiple_1", QUESTION[0])
    assert item["metadata"] == {"category": "multiple", "label": BFCL_LABEL}
    shown = item["tools"][0]["function"]
    assert (shown["name"], shown["parameters"]["type"]) == ("trip.plan", "object")
    properties = shown["parameters"]["properties"]
    assert properties["at"] == {"type": "array", "items": {"type": "number"}, "description": "Where."}
    assert properties["type"] == {"description": "Of what type."}
    assert properties["stop"]["properties"]["hours"] == {"type": "number"}
    assert properties["stop"]["properties"]["tags"] == {"type": "array", "items": {"type": "object"}}
    assert tool_schema(shown["parameters"]).misfit({"at": [1.5]}) is None
    assert item["gold"]["functions"] == [FUNCTION]
    assert score_tool_use("[trip.plan(at=(1.5, 2.0))]", item).value == 1
    assert score_tool_use("[trip.plan(at=(1, 2.0))]", item).value == 0


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_gold_reply_is_right_in_every_category(published, category):
    for item in bfcl_items(category):
        assert score_tool_use(gold_reply(item), item).value == 1


@pytest.mark.parametrize(
    ("category", "call", "words"), [("irrelevance", 0, 1), ("live_irrelevance", 0, 1), ("live_relevance", 1, 0)]
)
def test_whether_to_call_at_all(published, category, call, words):
    item = bfcl_items(category)[0]
    assert score_tool_use('{"name": "trip.plan", "arguments": {}}', item).value == call
    assert score_tool_use("No tool does that.", item).value == words


def test_it_is_read_from_the_wheel_as_well(published, tmp_path, monkeypatch):
    folder = bfcl_items("simple_python")
    wheel = tmp_path / "bfcl_eval.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in published.rglob("*.json"):
            archive.write(path, path.relative_to(tmp_path))
    monkeypatch.setenv(PLACE, str(wheel))
    assert bfcl_items("simple_python") == folder


def test_it_is_read_from_the_installed_package_without_importing_it(published, tmp_path, monkeypatch):
    (tmp_path / "bfcl_eval" / "__init__.py").write_text("raise RuntimeError('it was imported')", encoding="utf-8")
    monkeypatch.delenv(PLACE)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(bfcl_items("parallel")) == 2


def test_a_result_on_it_is_labelled(published):
    found = items_of(CAPABILITY, "bfcl:simple_python")
    assert (len(found.items), found.label) == (2, "not a leaderboard score")


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ("", "bfcl: name a category, as in bfcl:simple_python; known: simple_python, multiple"),
        ("simple_pyhton", "bfcl:simple_pyhton: unknown category; did you mean 'simple_python'"),
        (
            "multi_turn_base",
            "bfcl:multi_turn_base: only categories of one turn and in Python can be scored here; known",
        ),
        ("simple_java", "bfcl:simple_java: only categories of one turn and in Python"),
    ],
)
def test_unknown_categories(category, message):
    with pytest.raises(ConfigError) as error:
        bfcl_items(category)
    assert str(error.value).startswith(message)


def test_when_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.delenv(PLACE, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"not installed; run: pip install --no-deps bfcl-eval \(or set SAGE_BFCL"):
        bfcl_items("multiple")


def test_when_it_is_somewhere_else(published, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(PLACE, str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="does not hold BFCL_v4_multiple"):
        bfcl_items("multiple")
    monkeypatch.setenv(PLACE, str(published / "BFCL_v4_multiple.json"))
    with pytest.raises(ConfigError, match="does not hold BFCL_v4_multiple"):
        bfcl_items("multiple")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"BFCL_v4_multiple.json:3: is not valid JSON"),
        ('{"id": "x"}', r"BFCL_v4_multiple.json:3: expected an object with id, question, function"),
        (json.dumps({"id": "x", "question": QUESTION, "function": [FUNCTION]}), r"json:3: .* has no row 'x'"),
    ],
)
def test_a_broken_row(published, line, message):
    with (published / "BFCL_v4_multiple.json").open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(DataError, match=message):
        bfcl_items("multiple")
