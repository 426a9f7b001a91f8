import json
import math

import pytest
from tests.tiny import tiny_model, tiny_tokenizer

from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.environments.desk import DeskExpert
from sage.libs.finetune.agent.errors import ConfigError, DataError, ScoringError
from sage.libs.finetune.agent.evaluation.known import CAPABILITIES
from sage.libs.finetune.agent.evaluation.report import CapabilityScore
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.progress import silent

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"q": {}}}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": {"q": "tea"}}}
TEA = {
    "messages": [{"role": "user", "content": "Find tea."}, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "tools": [TOOL],
}
SUMS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)]


def evaluator(**settings):
    return AgentCapabilityEvaluator(**{"progress": silent, **settings})


def same(reply, item):
    return reply == item["gold"]


def adds(messages):
    return str(int(messages[-1]["content"].split()[0]) + 1)


def test_the_summary_is_the_reference_s_to_the_letter():
    known = {"tool_use": (0.92, 500), "planning": (0.78, 300), "reasoning": (0.85, 400)}
    report = CapabilityReport({name: CapabilityScore(name, *found) for name, found in known.items()})
    assert report.summary() == (
        "Agent Capability Report\n"
        "-----------------------\n"
        "Tool Use: 0.92 (n=500)\n"
        "Planning: 0.78 (n=300)\n"
        "Reasoning: 0.85 (n=400)\n"
        "Overall: 0.85"
    )
    assert report.get_score("tool_use") == 0.92


def test_the_overall_score_is_the_plain_mean_over_what_was_measured():
    report = evaluator(scorers={"sums": same, "none": same}).evaluate(adds, {"sums": SUMS, "none": [{"prompt": "a"}]})
    assert (report.get_score("sums"), report.overall) == (1.0, 1.0)  # `adds` fails on "a"
    assert math.isnan(report.get_score("none"))
    assert "None: not measured (n=0, 1 error)\nOverall: 1.00" in report.summary()
    with pytest.raises(ConfigError, match="capability 'sum' was not measured; did you mean 'sums'"):
        report.get_score("sum")


def test_a_model_that_raises_is_no_zero():
    def fails_on_two(messages):
        if messages[-1]["content"].startswith("2"):
            raise RuntimeError("out of words")
        return adds(messages)

    score = evaluator(scorers={"sums": same}).evaluate_capability(fails_on_two, "sums", SUMS)
    assert (score.score, score.num_samples, score.errors) == (1.0, 3, 1)
    assert [one["error"] for one in score.replies] == [None, None, "RuntimeError: out of words", None]


def test_each_record_says_what_was_asked_said_and_found():
    [record] = evaluator().evaluate_capability(lambda messages, tools: CALL_TEXT, "tool_use", [TEA]).replies
    assert (record["id"], record["value"], record["error"]) == ("row-1", 1.0, None)
    assert record["prompt"] == TEA["messages"][:1] and record["reply"] == CALL_TEXT
    assert record["extracted"] and record["reason"] and record["seconds"] >= 0


CALL_TEXT = '{"name": "find", "arguments": {"q": "tea"}}'


@pytest.mark.parametrize("name", ["tool_use", "planning", "reasoning", "instruction_following", "timing"])
def test_a_model_that_knows_the_gold_has_full_marks_on_the_built_in_sets(name):
    from sage.libs.finetune.agent.capabilities.test_sets import test_set as built_in

    capability, items = CAPABILITIES[name], built_in(name, 8)
    replies = {json.dumps(item["messages"]): capability.gold_reply(item) for item in items}
    score = evaluator().evaluate_capability(lambda messages: replies[json.dumps(messages)], name, "builtin:8")
    assert (score.score, score.num_samples, score.errors) == (1.0, 8, 0)
    worse = evaluator().evaluate_capability(lambda messages: "I cannot say.", name, items)
    assert worse.score < 1.0


def test_a_local_model_on_built_in_sets_and_episodes(tmp_path):
    settings = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 4, "batch_size": 4}
    sets = {"timing": "builtin:4", "tool_use": [TEA], "episodes": "builtin:2"}
    told = []
    report = evaluator(**settings, progress=lambda *news: told.append(news)).evaluate(tiny_model(), sets)
    assert [score.num_samples for score in report.scores.values()] == [4, 1, 2]
    assert report.test_sets == {"timing": "builtin:4", "tool_use": "1 row", "episodes": "builtin:2"}
    assert ("timing", 4, 4, "") in [(*news, "")[:4] for news in told]
    report.save(tmp_path / "report.json")
    assert CapabilityReport.load(tmp_path / "report.json").to_dict() == report.to_dict()


def test_an_agent_plays_episodes():
    report = evaluator().evaluate(DeskExpert(), {"episodes": "builtin:3"})
    assert report.get_score("episodes") == 1.0 and report.model == "DeskExpert"


def test_a_scorer_in_place_of_a_known_one_is_given_the_gold_in_its_form():
    def names(reply, item):
        return Score(0.5, [call["name"] for call in item["gold"]["calls"]], "half")

    score = evaluator(scorers={"tool_use": names}).evaluate_capability(lambda messages: "", "tool_use", [TEA])
    assert score.score == 0.5 and score.replies[0]["extracted"] == ["find"]


def test_a_capability_of_one_s_own():
    own = Capability(
        "own", lambda reply, item: Score(1.0, reply, ""), lambda row, where: 5, lambda found: {"n": len(found)}
    )
    score = evaluator(scorers={"own": own}).evaluate_capability(lambda messages: "", "own", [{"prompt": "a"}])
    assert score.details["n"] == 1


@pytest.mark.parametrize("found", [2, float("nan"), "yes", None])
def test_a_scorer_must_give_a_score(found):
    with pytest.raises(
        ScoringError, match=r"^sums: item 'row-1': the scorer gave .*; expected a Score, a number from 0"
    ):
        evaluator(scorers={"sums": lambda reply, item: found}).evaluate(adds, {"sums": SUMS})


def test_a_scorer_that_raises_is_named_with_the_item():
    with pytest.raises(ScoringError, match="sums: item 'row-1': the scorer raised KeyError: 'nothing'"):
        evaluator(scorers={"sums": lambda reply, item: item["nothing"]}).evaluate(adds, {"sums": SUMS})


def test_data_as_files_registered_sets_and_foreign_forms(tmp_path, monkeypatch):
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS), encoding="utf-8")
    (tmp_path / "data.yaml").write_text("sums: {test: sums.jsonl}\n", encoding="utf-8")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data.yaml"))
    measure = evaluator(scorers={"sums": same})
    for data in (tmp_path / "sums.jsonl", str(tmp_path / "sums.jsonl"), "sums:test", iter(SUMS)):
        assert measure.evaluate_capability(adds, "sums", data).score == 1.0
    shared = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
    rows = [{"conversations": shared, "id": "a"}]
    measure = evaluator(scorers={"sums": lambda reply, item: reply == item["gold"]["content"]})
    assert [one["id"] for one in measure.evaluate_capability(adds, "sums", rows).replies] == ["a"]
    rows = [{"instruction": "1 + 1?", "input": "", "output": "2"}]
    assert measure.evaluate_capability(adds, "sums", rows).score == 1.0


def never(messages):
    pytest.fail("asked before all data was read")


@pytest.mark.parametrize(
    ("sets", "kind", "error"),
    [
        ({}, ConfigError, "test_sets: expected capabilities with their data"),
        (
            {"tool_us": SUMS},
            ConfigError,
            "unknown capability 'tool_us'; did you mean 'tool_use'? known: episodes,",
        ),
        ({"sums": SUMS, "tool_use": []}, DataError, "test set of tool_use: there are no rows to test tool_use with"),
        ({"sums": SUMS[0]}, ConfigError, "test set of sums: expected rows, a file, 'name:split', 'builtin'"),
        ({"sums": [{"answer": 5}]}, DataError, "test set of sums, row 1: no prompt"),
        ({"sums": "no-such-file.jsonl"}, DataError, "no-such-file.jsonl"),
        ({"sums": "no-such-set:test"}, ConfigError, "unknown data set 'no-such-set'"),
        ({"timing": "builtin:0"}, ConfigError, "test set 'builtin:0': expected builtin:N with a whole number N"),
        ({"sums": "builtin:4"}, ConfigError, "no built-in test set of 'sums'"),
        ({"planning": "bfcl:simple_python"}, ConfigError, "BFCL tests tool_use, not planning"),
        ({"episodes": "desk"}, ConfigError, "episodes: 'desk' names no tasks"),
    ],
)
def test_unusable_test_sets_are_said_before_anything_is_asked(sets, kind, error):
    with pytest.raises(kind) as caught:
        evaluator(scorers={"sums": same}).evaluate(never, sets)
    assert error in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens=True: expected"),
        ({"bootstrap": 1.5}, "bootstrap=1.5: expected"),
        ({"confidence": 95}, "confidence=95: expected a number between 0 and 1"),
        ({"scorers": {"sums": 5}}, "scorers: 'sums': expected a function or a Capability, found int"),
        ({"scorers": {"episodes": same}}, "scorers: 'episodes' are judged by their environment"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, error):
    with pytest.raises(ConfigError) as caught:
        evaluator(**settings)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("content", ["{", "[]", '{"scores": {}}', '{"kind": "capability report", "scores": {"a": 5}}'])
def test_a_file_that_is_no_report_is_named(tmp_path, content):
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"report\.json"):
        CapabilityReport.load(tmp_path / "report.json")


BROKEN_GOLDS = [
    ("tool_use", {"prompt": "a", "gold": {"calls": [{"name": "find", "arguments": {"q": "tea"}}]}}),
    ("planning", {"prompt": "a", "gold": {"plan": []}}),
    ("reasoning", {"prompt": "a", "gold": {"answer": "x", "kind": "number"}}),
    ("instruction_following", {"prompt": "a", "instruction_id_list": ["keywords:existence"], "kwargs": [{}]}),
    ("timing", {"prompt": "a", "gold": {"call": "yes"}}),
]


@pytest.mark.parametrize(("name", "row"), BROKEN_GOLDS)
def test_a_gold_that_cannot_be_judged_against_is_said_before_anything_is_asked(name, row):
    with pytest.raises(ScoringError, match="item 'row-1'"):
        evaluator().evaluate(never, {name: [row]})


@pytest.mark.parametrize("value", [7.0, -0.1, float("nan")])
def test_a_score_out_of_range_is_no_score(value):
    with pytest.raises(ScoringError, match=r"sums: item 'row-1': the score is .*; expected 0 to 1"):
        evaluator(scorers={"sums": lambda reply, item: Score(value, reply, "")}).evaluate(adds, {"sums": SUMS})


def test_a_scorer_may_give_what_numpy_gives():
    import numpy as np

    scorers = {"close": lambda reply, item: np.isclose(2.0, 2.0), "half": lambda reply, item: np.float32(0.5)}
    assert evaluator(scorers=scorers).evaluate(adds, dict.fromkeys(scorers, SUMS)).overall == 0.75


def test_half_a_character_in_a_reply_does_not_cost_the_report(tmp_path):
    report = evaluator(scorers={"sums": lambda *_: 1}).evaluate(lambda messages: "\ud83d", {"sums": SUMS})
    report.save(tmp_path / "report.json")
    assert CapabilityReport.load(tmp_path / "report.json").scores["sums"].replies[0]["reply"] == "?"


def test_text_that_is_no_file_name_is_one_line():
    with pytest.raises(ConfigError, match="is no file name; expected rows, a file or 'name:split'"):
        evaluator().evaluate(never, {"timing": "x" * 5000})


# Measuring that ends early


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupt_leaves_what_was_measured(tmp_path, asynchronous):
    asked = []

    def stops(messages):
        asked.append(messages)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return "5"

    async def stops_later(messages):
        return stops(messages)

    measure = evaluator(concurrency=1)
    sets = dict.fromkeys(["reasoning", "timing", "planning"], SUMS)
    sets |= {"timing": [{**row, "call": False} for row in SUMS], "planning": "builtin:4"}
    with pytest.raises(KeyboardInterrupt):
        measure.evaluate(stops_later if asynchronous else stops, sets)
    report = measure.last
    assert report.unfinished == ["timing", "planning"] and list(report.scores) == ["reasoning", "timing"]
    assert [score.num_samples for score in report.scores.values()] == [4, 2]
    assert [one["value"] for one in report.scores["timing"].replies] == [1.0, 1.0]
    assert report.overall == report.get_score("reasoning") == 0.0  # unfinished ones are no part of it
    assert report.summary().endswith("Overall: 0.00\nUnfinished: Timing (2 replies), Planning (no replies)")
    assert report.created and report.seconds > 0
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["unfinished"] == ["timing", "planning"]
    assert CapabilityReport.load(tmp_path / "report.json").to_dict() == report.to_dict()


def test_last_is_the_report_and_of_this_evaluate():
    measure = evaluator(scorers={"sums": same})
    assert measure.last is None
    report = measure.evaluate(adds, {"sums": SUMS})
    assert measure.last is report and report.unfinished == [] and "Unfinished" not in report.summary()
    with pytest.raises(DataError):
        measure.evaluate(adds, {"sums": []})
    assert measure.last is None


def test_a_scorer_that_raises_does_not_cost_the_replies():
    def fails_on_two(reply, item):
        if reply == "3":
            raise KeyError("nothing")
        return True

    measure = evaluator(scorers={"sums": fails_on_two})
    with pytest.raises(ScoringError, match="item 'row-3'"):
        measure.evaluate(adds, {"sums": SUMS})
    score = measure.last.scores["sums"]
    assert [one["reply"] for one in score.replies] == [*"1234"]
    assert [one["value"] for one in score.replies] == [1.0, 1.0, None, None]
    assert score.replies[2]["reason"].startswith("not scored: ScoringError: sums: item 'row-3'")
    assert (score.num_samples, score.details["skipped"], measure.last.unfinished) == (2, 2, ["sums"])


def test_a_summary_that_raises_does_not_cost_the_replies():
    own = Capability("own", lambda *_: Score(0.5, "", ""), lambda *_: None, lambda found: {"n": 1 / 0})
    measure = evaluator(scorers={"own": own})
    with pytest.raises(ZeroDivisionError):
        measure.evaluate(adds, {"own": SUMS})
    assert measure.last.scores["own"].score == 0.5 and len(measure.last.scores["own"].replies) == 4


@pytest.mark.parametrize("field", ["test_sets", "settings", "unfinished"])
def test_a_report_with_an_odd_field_is_named(field):
    with pytest.raises(DataError, match=f"report: field '{field}': expected that of a capability report, found 5"):
        CapabilityReport.from_dict({**CapabilityReport({}).to_dict(), field: 5})
