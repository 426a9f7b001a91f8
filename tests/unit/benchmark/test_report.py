"""The report of a comparison, made of made-up grids (see tests/comparison_grids.py)."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.comparison_grids import write_grid
from tests.tiny import save_tiny

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import terminal, write_report
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import read_grid
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.page import html_page
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.replies import collect_replies
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError

HOSTILE = "</script><script>alert(1)</script><!-- <b>\ud800"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    return write_grid(root / "grid", items=40, model=str(save_tiny(root / "model")))


@pytest.fixture(scope="module")
def written(folder: Path) -> list[Path]:
    return write_report(folder)


def shown(folder: Path) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(*terminal(folder), sep="\n")
    return captured.get()


def embedded(page: str) -> dict:
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_both_files_say_the_same_verdict(folder: Path, written: list[Path]):
    assert [path.name for path in written] == ["report.md", "report.html"]
    text, page = (path.read_text("utf-8") for path in written)
    assert text.index("Better than A_baseline overall: B3_coreset_hybrid") < text.index("## Scores")
    assert '<p class="verdict">Better than A_baseline overall: B3_coreset_hybrid' in page
    assert "Worse than A_baseline overall: D_combined" in page
    for needed in ("Holm-adjusted over 2 methods", "would have been shown 4 times in 5", "Seeds a method: 2."):
        assert needed in text and needed in page


def test_the_page_has_every_section_and_is_the_same_each_time(folder: Path, written: list[Path]):
    page = written[1].read_text("utf-8")
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert sections == [
        "result", "scores", "baseline", "costs", "rates", "curves", "forgetting", "selected", "rows", "replies",
        "configurations", "reproduce",
    ]  # fmt: skip
    assert html_page(read_grid(folder)) == page


def test_the_page_asks_nothing_of_the_network_and_is_accessible(written: list[Path]):
    page = written[1].read_text("utf-8")
    assert not re.search(r'(src|href)="(?!#|data:,)', page) and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page and '<html lang="en">' in page
    without_data = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    for table in re.findall(r"<table.*?</table>", without_data, re.DOTALL):
        assert "<caption>" in table and 'scope="col"' in table and 'scope="row"' in table
    for picture in re.findall(r"<svg[^>]*>", without_data):
        assert "aria-hidden" in picture or "aria-label" in picture or "preserveAspectRatio" in picture
    assert len(re.findall("<h1>", page)) == 1 and "innerHTML" not in page


def test_trained_tokens_are_coloured(written: list[Path]):
    page = written[1].read_text("utf-8")
    rows = re.search(r'<section id="rows".*?</section>', page, re.DOTALL)[0]
    trained = "".join(re.findall(r'<span class="y[^"]*">(.*?)</span>', rows))
    assert "The answer is 0." in trained and "?" not in trained
    assert "tokens, " in rows and "trained in 1 of 1 turn" in rows


def test_selected_rows_are_counted_on_their_map(written: list[Path]):
    page = written[1].read_text("utf-8")
    assert "B3_coreset_hybrid: 5 of 12 rows selected" in page and "A_baseline: 12 of 12" not in page


def test_replies_are_all_there_and_prompts_once(folder: Path, written: list[Path]):
    data = embedded(written[1].read_text("utf-8"))
    assert len(data["replies"]) == 6 * 5 * 40 and len(data["items"]) == 5 * 40
    report = jsonl.read_json(folder / "B3_coreset_hybrid-seed1" / "report.json")
    run = data["runs"].index(["B3_coreset_hybrid", 1])
    own = [reply for reply in data["replies"] if reply[0] == run]
    expected = [one for score in report["scores"].values() for one in score["details"]["replies"]]
    assert [data["texts"][reply[5]] for reply in own] == [one["reply"] or "" for one in expected]
    assert [reply[4] for reply in own] == [one["value"] for one in expected]


def test_replies_say_where_they_differ_from_the_baseline(folder: Path):
    data = collect_replies(read_grid(folder)).data
    value = {(tuple(data["runs"][reply[0]]), reply[1]): reply[4] for reply in data["replies"]}
    for reply in data["replies"]:
        base, own = value[("A_baseline", data["runs"][reply[0]][1]), reply[1]], reply[4]
        assert reply[8] == (0 if None in (base, own) else (own > base) - (own < base))


def test_too_many_replies_are_thinned_errors_and_wrong_ones_last(folder: Path):
    whole, thinned = collect_replies(read_grid(folder)), collect_replies(read_grid(folder), most_bytes=120_000)
    assert len(thinned.json().encode()) <= 120_000 and 0 < thinned.kept < thinned.total == whole.kept
    for run in range(6):
        states = [[reply[3] for reply in one.data["replies"] if reply[0] == run] for one in (whole, thinned)]
        missing = {state for state in range(4) if states[0].count(state) > states[1].count(state)}
        assert not missing or min(missing) == max(states[1])


def test_no_text_of_a_run_is_markup(tmp_path: Path):
    folder = write_grid(tmp_path, "A_baseline,G_dora", seeds=1, items=3)
    path = folder / "G_dora-seed0" / "report.json"
    report = jsonl.read_json(path)
    first = report["scores"]["timing"]["details"]["replies"][0]
    first |= {"reply": HOSTILE, "reason": HOSTILE, "id": "<i>x", "prompt": [{"role": "user", "content": HOSTILE}]}
    path.write_text(json.dumps(report))  # with the half character, which our own writer refuses
    result = jsonl.read_json(folder / "G_dora-seed0" / "result.json")
    result["method"]["description"] = result["device"] = HOSTILE[:-1]
    jsonl.write_json(folder / "G_dora-seed0" / "result.json", result)
    text, page = (path.read_text("utf-8") for path in write_report(folder))
    assert page.count("<script") == page.count("</script>") == 2 and "<b>" not in page and "<i>" not in page
    assert HOSTILE[:-1] + "?" in embedded(page)["texts"]
    assert "\\<script" in text


def test_an_unfinished_grid_says_what_is_missing(tmp_path: Path):
    status = {"B3_coreset_hybrid-seed1": "failed", "D_combined-seed0": "cancelled"}
    folder = write_grid(tmp_path, skip=["D_combined-seed1"], status=status)
    text, page = (path.read_text("utf-8") for path in write_report(folder))
    for said in (text, page, " ".join(shown(folder).split())):
        assert "1 of 6 runs failed: B3_coreset_hybrid seed 1." in said
        assert "1 of 6 runs cancelled: D_combined seed 0." in said
        assert "1 of 6 runs missing: D_combined seed 1." in said
    assert "RuntimeError: out of &lt;b>memory&lt;/b>" in page.replace("&gt;", ">")
    assert "1 of 2" in shown(folder)


def test_runs_that_were_only_planned_are_missing(tmp_path: Path):
    folder = write_grid(tmp_path, "A_baseline", seeds=1)
    spec = jsonl.read_json(folder / "A_baseline-seed0" / "spec.json")
    jsonl.write_json(folder / "grid.json", {"runs": [spec, {**spec, "method_id": "G_dora", "seed": 4}]})
    assert [(run.method_id, run.seed, run.state) for run in read_grid(folder).unfinished] == [("G_dora", 4, "missing")]
    assert "Only A_baseline has finished" in shown(folder)


def test_without_the_baseline_scores_are_shown_and_nothing_is_claimed(tmp_path: Path):
    folder = write_grid(tmp_path, status={"A_baseline-seed0": "failed", "A_baseline-seed1": "failed"})
    text, page = (path.read_text("utf-8") for path in write_report(folder))
    assert "A_baseline has no finished run" in text and "Against the baseline" not in text + page


def test_a_folder_where_all_failed_still_has_a_report(tmp_path: Path):
    folder = write_grid(
        tmp_path, "A_baseline,G_dora", seeds=1, status={"A_baseline-seed0": "failed"}, skip=["G_dora-seed0"]
    )
    text, page = (path.read_text("utf-8") for path in write_report(folder))
    assert "No run has finished" in text and "No run has left replies" in page and shown(folder)


def test_an_empty_folder_is_an_error_that_says_what_to_give(tmp_path: Path):
    with pytest.raises(DataError, match="holds no result; give the --out folder"):
        write_report(tmp_path)


def test_the_base_models_tokenizer_may_be_gone(tmp_path: Path):
    page = write_report(write_grid(tmp_path, "A_baseline", seeds=1, model="gone/model"))[1].read_text("utf-8")
    assert "Not shown: the tokenizer of the base model cannot be loaded here." in page


@pytest.mark.parametrize("methods", ["all", "A_baseline"])
def test_the_terminals_tables_fit_80_columns(tmp_path: Path, methods: str):
    text = shown(write_grid(tmp_path, methods, seeds=1, items=4))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert re.search(r"^A_baseline +1 +\d+\.\d", text, re.MULTILINE)


def test_the_command_makes_the_grid_again(folder: Path, written: list[Path]):
    text = written[0].read_text("utf-8")
    [command] = re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL)
    assert command.startswith("sage-finetune compare --methods A_baseline,B3_coreset_hybrid,D_combined --base-model ")
    assert f"--out {folder}" in command and "--learning-rates 1e-4,3e-4" in command and "--seeds 2" in command
    assert "0123456789abcdef" in text


def test_one_seed_is_said_to_leave_out_the_luck_of_training(tmp_path: Path):
    assert "another seed may reverse them" in " ".join(shown(write_grid(tmp_path, seeds=1)).split())
