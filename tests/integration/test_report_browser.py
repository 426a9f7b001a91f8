"""The comparison's page in a real browser: no errors, filters that work, and a first picture soon.

Needs Chromium or Chrome (Debian: `apt-get install chromium`); the grid is made up (tests/comparison_grids.py).
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.comparison_grids import write_grid

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import write_report
from sage.libs.finetune.agent import jsonl

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_grid(tmp_path_factory.mktemp("grid"), items=12)
    path = folder / "B3_coreset_hybrid-seed1" / "report.json"
    report = jsonl.read_json(path)
    first = report["scores"]["timing"]["details"]["replies"][0]
    first |= {"reply": HOSTILE, "reason": HOSTILE, "error": None, "value": 0.0}
    jsonl.write_json(path, report)
    return write_report(folder)[1]


def browse(url: str, profile: Path, *asked: str) -> tuple[str, list[str]]:
    """What the browser prints when asked, and the messages of its console."""
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    done = subprocess.run(
        [str(BROWSER), "--headless=new", *root, "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-extensions", "--enable-logging=stderr", f"--user-data-dir={profile}", *asked, url],
        capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    said = done.stderr.decode("utf-8", "replace").splitlines()
    return done.stdout.decode("utf-8", "replace"), [line for line in said if "CONSOLE" in line]


def opened(page: Path, profile: Path, **filters: str) -> str:
    dom, console = browse(f"{page.as_uri()}#{urlencode(filters)}", profile, "--dump-dom")
    assert console == []
    return dom


def count(dom: str) -> str:
    return re.search(r'<output id="count"[^>]*>(.*?)</output>', dom)[1]


def test_the_page_opens_without_errors_and_lists_replies(page: Path, tmp_path: Path):
    dom = opened(page, tmp_path)
    assert count(dom) == "360 of 360 replies, 50 listed" and "<title>Comparison of training methods" in dom


def test_filters_in_the_address_work(page: Path, tmp_path: Path):
    filters = {"method": "D_combined", "seed": "1", "capability": "Tool Use", "state": "wrong"}
    dom = opened(page, tmp_path, **filters)
    report = jsonl.read_json(page.parent / "D_combined-seed1" / "report.json")
    wrong = [one for one in report["scores"]["tool_use"]["details"]["replies"] if one["value"] == 0]
    assert count(dom) == f"{len(wrong)} of 360 replies, {len(wrong)} listed" and wrong
    listed = dom[dom.index('id="list"') :]
    assert all(one["id"] in listed for one in wrong) and listed.count('<details class="wrong"') == len(wrong)


def test_text_of_a_reply_is_found_and_is_never_markup(page: Path, tmp_path: Path):
    dom = opened(page, tmp_path, search="document.title='OWNED'")
    assert count(dom) == "1 of 360 replies, 1 listed" and "<title>Comparison" in dom
    assert html.escape("wrong: " + HOSTILE, quote=False)[:100] in dom and "<img" not in dom.split("</form>")[-1]


def test_keys_and_clicks_filter_list_and_open(page: Path, tmp_path: Path):
    """A script at the end does what a reader does, and leaves what it saw in the page's title."""
    driver = """<script>
      const seen = [], tell = () => seen.push(document.getElementById("count").textContent);
      document.getElementById("more").click(); tell();
      seen.push(document.activeElement.tagName);
      form.elements.method.value = "A_baseline"; form.elements.state.value = "error";
      form.dispatchEvent(new Event("input", {bubbles: true})); tell();
      seen.push(location.hash);
      form.elements.state.value = ""; form.elements.search.value = "no such words anywhere";
      form.elements.search.dispatchEvent(new Event("input", {bubbles: true})); tell();
      form.elements.search.value = ""; form.elements.method.value = "";
      form.dispatchEvent(new Event("input", {bubbles: true})); tell();
      const first = document.querySelector("#list details");
      first.addEventListener("toggle", () => {
        seen.push(first.querySelectorAll("pre").length);
        document.title = JSON.stringify(seen);
      });
      first.open = true;
    </script></body>"""
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text("utf-8").replace("</body>", driver), "utf-8")
    dom, console = browse(driven.as_uri(), tmp_path, "--dump-dom", "--virtual-time-budget=3000")
    assert console == []
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    errors = sum(
        one["error"] is not None
        for seed in (0, 1)
        for score in jsonl.read_json(page.parent / f"A_baseline-seed{seed}" / "report.json")["scores"].values()
        for one in score["details"]["replies"]
    )
    assert seen[:2] == ["360 of 360 replies, 100 listed", "SUMMARY"]
    assert seen[2:4] == [f"{errors} of 360 replies, {errors} listed", "#method=A_baseline&state=error"]
    assert seen[4:6] == ["0 of 360 replies, 0 listed", "360 of 360 replies, 50 listed"] and seen[6] >= 3


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (390, True)])
def test_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, width: int, dark: bool):
    """Measured in a frame of that width, because a headless window has a least width; a picture is left for the eye."""
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<iframe src="{page.name}" style="width:{width}px;height:3000px;border:0"></iframe><script>'
        "const inside = document.querySelector('iframe');"
        "inside.onload = () => { const root = inside.contentDocument.documentElement;"
        "document.title = root.scrollWidth + ' of ' + root.clientWidth; };</script>"
    )
    picture = tmp_path / f"page-{width}.png"
    colours = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    asked = (*colours, "--allow-file-access-from-files", f"--window-size={width},3000", f"--screenshot={picture}")
    dom, console = browse(frame.as_uri(), tmp_path / "profile", *asked, "--dump-dom")
    assert console == [] and picture.stat().st_size > 20_000
    needed, there = map(int, re.search(r"<title>(\d+) of (\d+)</title>", dom).groups())
    assert needed <= there == width
