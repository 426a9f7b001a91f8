"""evaluate: capabilities, and two models side by side. The turns of rows are in test_model_commands.py."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny

from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.capabilities.test_sets import BUILT_IN
from sage.libs.finetune.agent.cli.commands.evaluate import EvaluateConfig
from sage.libs.finetune.agent.cli.evaluation import sets_to_measure
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.report import CapabilityScore


def score(capability: str, values: list[float | None]) -> CapabilityScore:
    replies = [
        {"id": f"row-{number}", "value": value, "error": "TimeoutError: late" if value is None else None}
        for number, value in enumerate(values)
    ]
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else float("nan")
    errors = len(values) - len(known)
    return CapabilityScore(
        capability, mean, len(known), {"interval": None, "errors": errors, "label": None, "replies": replies}
    )


def save(path: str, **values: list[float | None]) -> str:
    scores = {name: score(name, found) for name, found in values.items()}
    CapabilityReport(scores, model=path.removesuffix(".json")).save(path)
    return path


def turns(path: str, right: list[bool]) -> str:
    replies: list[dict[str, Any]] = [
        {"row": number, "turn": 2, "expected": {"role": "assistant", "content": "4"}, "reply": "4", "right": ok}
        for number, ok in enumerate(right)
    ]
    share = sum(right) / len(right)
    numbers = {"accuracy": share, "loss": 0.5, "n": len(right), "rows": len(right), "calls_valid": None}
    record = {**numbers, "accuracy_interval": {"low": 0.1, "high": 0.9}, "calls_attempted": 0, "replies": replies}
    Path(path).write_text(json.dumps({**record, "model": path.removesuffix(".json"), "data": "rows.jsonl"}))
    return path


def test_two_reports(cli: Any) -> None:
    a = save("new.json", timing=[1.0] * 36 + [0.0] * 4, planning=[0.5, 0.75] * 20)
    b = save("old.json", timing=[1.0] * 20 + [0.0] * 20, planning=[0.5, 0.5] * 20)
    code, out, err = cli("evaluate", a, "--against", b, "-o", "both.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["Timing", "90.0%", "(n=40)"] and lines[2].split() == ["Overall", "76.2%"]
    assert "A  new\nB  old\n" in out
    assert "timing      40  90.0%  50.0%  +40.0  +26.3 to +55.4  <0.001   better\n" in out
    assert "overall         76.2%  50.0%  +26.2" in out
    found = json.loads(Path("both.json").read_text())
    assert found["comparison"]["against"] == "old"
    assert [row["verdict"] for row in found["comparison"]["rows"]] == ["better"] * 3
    assert CapabilityReport.load("both.json").get_score("timing") == 0.9


def test_a_regression_is_a_failed_check_unless_it_is_tolerated(cli: Any) -> None:
    new, old = save("new.json", timing=[0.0] * 20 + [1.0] * 80), save("old.json", timing=[1.0] * 100)
    code, out, err = cli("evaluate", new, "--against", old)
    assert code == 3 and "worse" in out
    assert err == (
        "error: evaluate: A is worse than B: timing -20.0 points (at least 13.3), p <0.001; tolerated: 0 points "
        "(p < 0.05 and the whole interval below)\n"
    )
    assert cli("evaluate", new, "--against", old, "--tolerance", 15).code == 0
    assert cli("evaluate", new, "--against", old, "--tolerance", 12).code == 3
    assert cli("evaluate", old, "--against", new).code == 0


def test_a_drop_that_may_be_chance_is_none_and_says_what_would_be_seen(cli: Any) -> None:
    new, old = save("new.json", timing=[1.0] * 17 + [0.0] * 3), save("old.json", timing=[1.0] * 20)
    code, out, err = cli("evaluate", new, "--against", old, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["comparison"]["rows"][0]["verdict"] == "no difference shown"
    assert "replies" not in json.loads(out)["scores"]["timing"]["details"]
    out = cli("evaluate", new, "--against", old).out
    assert "does not mean there is none; large enough to be shown 4 times in 5, in points: timing 30\n" in out


def test_errors_are_left_out_of_both_sides_and_said(cli: Any) -> None:
    out = cli("evaluate", save("a.json", timing=[1.0, None, 0.0]), "--against", save("b.json", timing=[1.0, 1.0])).out
    assert "(n=2, 1 error)" in out
    assert "timing: items without a pair are left out: 1 only the first has, 1 with an error\n" in out


def test_a_model_that_only_failed_is_no_score(cli: Any) -> None:
    code, _, err = cli("evaluate", save("a.json", timing=[None, None]))
    assert code == 1
    assert err == "error: evaluate: timing: no reply could be scored; the first error: TimeoutError: late\n"
    code, _, err = cli("evaluate", save("b.json", timing=[1.0]), "--against", "a.json")
    assert code == 1 and err.startswith("error: evaluate: a: timing: no reply could be scored")


def test_the_overall_score_may_be_below_the_bar(cli: Any) -> None:
    report = save("a.json", timing=[1.0, 0.0], planning=[0.5])
    assert cli("evaluate", report, "--min-accuracy", 0.5).code == 0
    code, _, err = cli("evaluate", report, "--min-accuracy", 0.6)
    assert (code, err) == (3, "error: evaluate: overall score 0.5000 is below --min-accuracy 0.6\n")


def test_turns_are_compared_by_row_and_message(cli: Any) -> None:
    new, old = turns("new.json", [False] * 9 + [True]), turns("old.json", [True] * 10)
    code, out, err = cli("evaluate", new, "--against", old)
    assert code == 3 and out.startswith("accuracy     10.0% (95% interval 10.0-90.0%)\nturns        10 in 10 rows\n")
    assert err.startswith("error: evaluate: A is worse than B: turns -90.0 points")


def test_what_cannot_be_compared(cli: Any) -> None:
    rows, report = turns("rows.json", [True]), save("report.json", timing=[1.0])
    other = save("other.json", planning=[1.0])
    Path("odd.json").write_text('{"a": 1}')
    Path("half.json").write_text('{"accuracy_interval": {"low": 0, "high": 1}, "loss": 1.0}')
    faults = {
        (rows, "--against", report): "one side is of capabilities, the other of the turns of rows",
        (rows, "--against", "runs/a"): "runs/a: the other side is of the turns of rows; give these as DATA too",
        (rows, "d.jsonl"): "rows.json: measured before, so 'd.jsonl' is not needed",
        (report, "--capabilities", "planning"): "report.json: measured before, so 'planning' is not needed",
        (report, "--against", other): "no capability was measured on both sides: the first has timing;",
        ("odd.json",): "odd.json: expected a capability report",
        ("half.json",): "half.json: expected what `sage-finetune evaluate MODEL DATA -o` writes",
        ("gone.json",): "gone.json",
        (rows, "--html", "page.html"): "--html is a page of capabilities",
        ("http://localhost:1/v1#m", "d.jsonl"): "turns of rows are asked of a model that is here",
    }
    for arguments, message in faults.items():
        code, _, err = cli("evaluate", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1, arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "d", "capabilities": "timing"}, "'capabilities': for capabilities, which are measured without DATA"),
        ({"tolerance": 2.0}, "'tolerance': nothing to compare with; give 'against'"),
        ({"output": "x", "html": "x"}, "'output' and 'html' are one file"),
        ({"output": "old.json", "against": "old.json"}, "'output' would overwrite old.json, which is read"),
        ({"output": "x/../rows.jsonl", "data": "rows.jsonl"}, "'output' would overwrite rows.jsonl, which is read"),
        ({"html": "old.json", "against": "old.json"}, "'html' would overwrite old.json, which is read"),
        ({"output": "a.jsonl", "test_sets": "timing=a.jsonl"}, "'output' would overwrite a.jsonl, which is read"),
        ({"test_sets": "timing"}, "expected NAME=ITEMS, such as tool_use=items.jsonl; found 'timing'"),
        ({"test_sets": "timing=a,timing=b"}, "'timing' stands twice"),
        ({"capabilities": " , "}, "'capabilities': expected names, such as tool_use,planning"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig.from_dict({"model": "m", **settings})


@pytest.mark.parametrize(
    ("settings", "sets"),
    [
        ({"capabilities": "timing, planning", "items": 8}, {"timing": "builtin:8", "planning": "builtin:8"}),
        ({"test_sets": "tool_use=bfcl:multiple"}, {"tool_use": "bfcl:multiple"}),
        ({"test_sets": "timing=builtin:9,planning=builtin"}, {"timing": "builtin:9", "planning": "builtin:64"}),
        (
            {"capabilities": "timing,tool_use", "test_sets": "tool_use=a,b.jsonl"},
            {"timing": "builtin:64", "tool_use": "a,b.jsonl"},
        ),
    ],
)
def test_where_items_come_from(settings: dict[str, Any], sets: dict[str, str]) -> None:
    assert sets_to_measure(EvaluateConfig("m", **settings)) == sets


def test_without_names_all_built_in_sets_are_measured() -> None:
    assert sets_to_measure(EvaluateConfig("m")) == dict.fromkeys(BUILT_IN, "builtin:64")


def test_a_model_and_the_page(cli: Any, tmp_path: Path) -> None:
    rows = [{"question": "Hello!", "call": False}, {"question": "How are you?", "call": False}]
    Path("timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_tiny(tmp_path / "model")
    measure = ("evaluate", model, "--test-sets", "timing=timing.jsonl", "--max-new-tokens", 4, "--dtype", "float32")
    code, out, _ = cli(*measure, "-o", "first.json", "--html", "page.html")
    assert code == 0 and "Overall" in out and "page     page.html\n" in out
    assert "How are you?" in Path("page.html").read_text()
    code, out, _ = cli(*measure, "--against", "first.json", "--json")
    [row] = json.loads(out)["comparison"]["rows"]
    assert code == 0 and (row["n"], row["difference"], row["left_out"]) == (2, 0.0, {})


# What ends early


@contextmanager
def server(answer: Callable[[int], tuple[int, str]]) -> Iterator[str]:
    """A chat server; `answer` gives status and text for the how manieth request. Gives `http://host:port/v1`."""
    count = iter(range(10**6))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, text = answer(next(count))
            body = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": {"message": text}}
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that gave up
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


@contextmanager
def interrupted_at(request: int) -> Iterator[str]:
    """A server during whose reply to this request someone presses Ctrl-C."""
    over = threading.Event()

    def answer(count: int) -> tuple[int, str]:
        if count == request:
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(30)
        return 200, "No call is due."

    with server(answer) as url:
        yield f"{url}#tiny"
        over.set()


ONE_AFTER_ANOTHER = ("--concurrency", 1, "--items", 4)


def test_an_interrupt_keeps_what_was_measured(cli: Any) -> None:
    with interrupted_at(6) as model:
        names = "timing,planning,reasoning"
        code, out, err = cli(
            "evaluate", model, "--capabilities", names, *ONE_AFTER_ANOTHER, "-o", "some.json", "--html", "some.html"
        )
    missing = "Planning (2 replies), Reasoning (no replies)"
    assert code == 130
    assert err.splitlines()[-1] == f"interrupted: not finished: {missing}; the replies so far are in some.json"
    assert "(n=4, " in out and f"Unfinished  {missing}\n" in out
    report = CapabilityReport.load("some.json")
    assert report.unfinished == ["planning", "reasoning"] and Path("some.html").exists()
    assert [len(score.replies) for score in report.scores.values()] == [4, 2]


def test_an_interrupt_without_a_file_shows_what_was_measured(cli: Any) -> None:
    with interrupted_at(1) as model:
        code, out, err = cli("evaluate", model, "--capabilities", "timing", *ONE_AFTER_ANOTHER, "--json")
    assert code == 130 and json.loads(out)["unfinished"] == ["timing"]
    assert err.splitlines()[-1] == "interrupted: not finished: Timing (1 reply); without -o no reply is kept"


def test_an_interrupt_before_the_first_reply_writes_nothing(cli: Any) -> None:
    with interrupted_at(0) as model:
        ended = cli("evaluate", model, "--capabilities", "timing", *ONE_AFTER_ANOTHER, "-o", "some.json")
    assert (ended.code, ended.out) == (130, "") and not Path("some.json").exists()


def test_an_interrupt_of_the_other_model_shows_the_first(cli: Any) -> None:
    with interrupted_at(5) as model:
        code, out, err = cli(
            "evaluate", model, "--capabilities", "timing", *ONE_AFTER_ANOTHER, "--against", model, "-o", "a.json"
        )
    assert code == 130 and out.startswith("Timing")
    assert err.splitlines()[-1] == f"interrupted: not compared with {model}; the replies so far are in a.json"
    assert CapabilityReport.load("a.json").unfinished == []
    assert CapabilityReport.from_dict(json.loads(Path("a.json").read_text())["against"]).unfinished == ["timing"]


def test_another_model_that_fails_does_not_cost_the_first(cli: Any) -> None:
    refuses = lambda _: (401, "no such key")  # noqa: E731
    with server(lambda _: (200, "No.")) as good, server(refuses) as bad:
        code, out, err = cli("evaluate", f"{good}#a", "--capabilities", "timing", "--items", 8, "--against", f"{bad}#b")
    assert code == 1 and out.startswith("Timing") and "Overall" in out
    assert err.splitlines()[-1].startswith("error: evaluate: ") and "status 401: no such key" in err
    assert err.endswith(f"(not compared with {bad}#b; without -o no reply is kept)\n")


def never(_: int) -> tuple[int, str]:
    pytest.fail("asked before the other model was checked")


def test_another_model_that_is_not_there_is_said_before_anything_is_asked(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tokenless = Path(save_tiny(tmp_path / "model"))
    (tokenless / "tokenizer.json").unlink()
    faults = {
        "./gone": "model folder ./gone does not exist",
        "empty": "empty holds neither config.json nor adapter_config.json",
        str(tokenless): "cannot be loaded",
        "http://localhost:1/v1": "which of its models? write http://localhost:1/v1#NAME",
        "gone.json": "gone.json",
    }
    with server(never) as url:
        for other, message in faults.items():
            code, out, err = cli("evaluate", f"{url}#a", "--capabilities", "timing", "--against", other)
            assert code in (1, 2) and not out and message in err, other
    code, _, err = cli("evaluate", "./gone", "d.jsonl", "--against", "http://localhost:1/v1#m")
    assert code == 2 and "turns of rows are asked of a model that is here" in err


# As measured before


def test_against_a_report_its_own_test_sets_are_measured(cli: Any) -> None:
    Path("rows.jsonl").write_text('{"question": "Hello!", "call": false}\n')
    with server(lambda _: (200, "No.")) as url:
        sets = "timing=rows.jsonl,reasoning=builtin:3"
        assert cli("evaluate", f"{url}#a", "--test-sets", sets, "--max-new-tokens", 9, "-o", "old.json").code == 0
        for sides in ((f"{url}#b", "--against", "old.json"), ("old.json", "--against", f"{url}#b")):
            code, out, err = cli("evaluate", *sides)
            assert code == 0 and "warning" not in err
            taken = "timing=rows.jsonl, reasoning=builtin:3; replies of at most 9 tokens"
            assert f"test sets are those of old.json: {taken}\n" in out
        code, out, err = cli("evaluate", f"{url}#b", "--against", "old.json", "-o", "rows.jsonl")
        assert code == 2 and "'output' would overwrite rows.jsonl, which is read" in err
        code, out, _ = cli("evaluate", f"{url}#b", "--against", "old.json", "--capabilities", "reasoning", "--json")
        assert json.loads(out)["test_sets"] == {"reasoning": "builtin:64"}


def test_test_sets_that_cannot_be_had_again_are_said(cli: Any) -> None:
    with server(lambda _: (200, "No.")) as url:
        assert cli("evaluate", f"{url}#a", "--test-sets", "timing=builtin:2", "-o", "old.json").code == 0
        old = CapabilityReport.load("old.json")
        for name, source in {"planning": "64 rows", "sums": "sums.jsonl"}.items():
            old.scores[name], old.test_sets[name] = score(name, [1.0]), source
        old.save("old.json")
        code, out, err = cli("evaluate", f"{url}#a", "--against", "old.json")
    lost = (
        "not measured, since it cannot be had again (rows given in Python, or a scorer of one's own): "
        "planning (64 rows), sums (sums.jsonl)\n"
    )
    assert code == 0 and f"warning: old.json: {lost}" in err and lost in out
    assert "test sets are those of old.json: timing=builtin:2; " in out
    CapabilityReport({"episodes": score("episodes", [1.0])}, test_sets={"episodes": "1 task"}).save("task.json")
    faults = {
        "task.json": "task.json: its test sets cannot be had again (rows given in Python",
        save("none.json", timing=[1.0]): "none.json: names no test sets; give --test-sets",
    }
    for path, message in faults.items():
        code, _, err = cli("evaluate", "http://localhost:1/v1#m", "--against", path)
        assert code == 2 and message in err
