import re
from html.parser import HTMLParser

import pytest

from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.evaluation.report import CapabilityScore
from sage.libs.finetune.agent.reporting.capability_page import MOST_REPLIES, capability_page, state_of

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\" ' & \ud800"


def record(at=0, value=1.0, text="Four.", error=None):
    prompt = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    return {
        "id": f"{text[:20]}{at}", "prompt": prompt, "reply": text, "extracted": [text], "value": value, "reason": text,
        "details": {}, "error": error, "seconds": 0.1, "cut": False,
    }  # fmt: skip


def report_of(*records, name="tool_use", model="tiny", **details):
    interval = {"low": 0.2, "high": 0.8, "confidence": 0.9}
    details = {"interval": interval, "replies": list(records), **details}
    return CapabilityReport({name: CapabilityScore(name, 0.5, len(records), details)}, model=model)


class Tags(HTMLParser):
    """The tags and attributes of a page, and whether every tag is closed in its turn."""

    EMPTY = ("meta", "input", "!doctype")

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_reply_cannot_become_part_of_the_page():
    evil = report_of(
        record(text=EVIL), record(1, None, EVIL, error=EVIL), name=EVIL, model=EVIL, **{EVIL: {EVIL: EVIL}}
    )
    page = capability_page(evil)
    tags = Tags(page)
    assert page.encode()  # half a character is no reason not to be written
    assert tags.tags.count("script") == 1 and "img" not in tags.tags and not tags.open
    assert not any(name.startswith("on") for name in tags.attributes)


def test_the_page_needs_nothing_but_itself():
    page = capability_page(report_of(record()))
    assert not re.search(r"https?://|@import|url\(| src=| href=", page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_scores_figures_and_replies_are_there():
    page = capability_page(
        report_of(record(), record(1, 0.25), parse_rate=0.975, by_category={"easy": {"n": 3}}, label="not a score")
    )
    assert "90% interval 20 to 80%" in page and "not a score" in page
    assert "<dt>parse rate</dt><dd>0.975</dd>" in page and "<dt>by category · easy · n</dt><dd>3</dd>" in page
    assert page.count("<details class=") == 2 and '<span class="v">0.25</span>' in page
    assert '<option value="wrong">' in page and '<option value="error">' not in page


@pytest.mark.parametrize(
    ("error", "value", "state"),
    [(None, 1.0, "right"), (None, 0.99, "wrong"), (None, None, "skipped"), ("ValueError", None, "error")],
)
def test_states(error, value, state):
    assert state_of({"error": error, "value": value}) == state


@pytest.mark.parametrize("text", ["a long reply " * 300, "<&>" * 2000, "世界" * 3000])
def test_five_hundred_long_replies_are_less_than_a_megabyte(text):
    page = capability_page(report_of(*(record(at, text=text) for at in range(500))))
    assert len(page.encode()) < 1_000_000 and page.count("<details class=") == 500


def test_of_very_many_replies_the_wrong_ones_are_kept():
    records = [record(at, 0.0 if at % 100 == 99 else 1.0) for at in range(2000)]
    page = capability_page(report_of(*records))
    assert page.count('<details class="wrong"') == 20 and page.count("<details class=") == MOST_REPLIES
    assert "500 of 2000 replies, errors and wrong ones first" in page


def test_a_report_of_nothing_has_a_page(tmp_path):
    nothing = CapabilityReport({"timing": CapabilityScore("timing", float("nan"), 0, {"errors": 2})})
    nothing.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "not measured" in page and "n=0, 2 errors" in page and "<script>" not in page and not Tags(page).open
