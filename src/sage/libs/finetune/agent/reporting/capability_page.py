"""What a model can do, as one HTML page that needs nothing but itself: scores, figures and every reply.

The page is whole without its script, which does no more than filter the replies. Light or dark as the reader's system
is. Long texts are cut in their middle so that a page stays small: 500 replies are less than a megabyte. The whole texts
are in the report's JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sage.libs.finetune.agent.capabilities.report import CapabilityReport, counts, score_text, title_of
from sage.libs.finetune.agent.evaluation.report import CapabilityScore
from sage.libs.finetune.agent.reporting.reply_text import conversation_text, valid, value_text, without_middle

MOST_REPLIES = 500
"""Replies of a capability that are shown; errors and wrong ones come first when there are more."""
_FRAME_BYTES, _REPLY_BYTES = 60_000, 1_800
_TEXT_LENGTHS = (900, 450, 220, 100, 40)
"""How long a text may be; the first for which the page is small enough is taken."""
_STATES = {"right": "Right", "wrong": "Wrong", "error": "Errors", "skipped": "Skipped"}
_SHOWN_ELSEWHERE = ("interval", "errors", "skipped", "cut_off", "label", "replies")
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --read: #eef1f4;
  --bar: #2f81f7; --right: #1a7f37; --wrong: #b35900; --error: #cf222e; --skipped: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #30363d;
  --read: #1c2229; --bar: #4493f8; --right: #3fb950; --wrong: #e3a03c; --error: #f85149; --skipped: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, .n, dt, small { color: var(--soft); } p { margin: .2rem 0; }
.score { display: grid; grid-template-columns: 11rem 1fr 4rem; gap: 0 .8rem; align-items: center; margin: .5rem 0; }
.score .n { grid-column: 2 / 4; font-size: .85rem; } .score b:last-of-type { text-align: right; }
.track { position: relative; height: 1.1rem; background: var(--read); border-radius: 4px; }
.fill, .ci { position: absolute; left: 0; top: 0; bottom: 0; } .fill { background: var(--bar); border-radius: 4px; }
.ci { top: 45%; bottom: 45%; background: var(--ink); } .ci::before, .ci::after { content: ""; position: absolute;
  width: 2px; height: .7rem; top: 50%; transform: translateY(-50%); background: var(--ink); } .ci::after { right: 0; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .1rem 1rem; margin: .3rem 0; }
dd { margin: 0; } details { border-top: 1px solid var(--line); } summary { padding: .35rem 0; cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--read); border-radius: 6px; padding: .6rem;
  margin: .1rem 0 .6rem; font: 14px/1.5 ui-monospace, monospace; }
.v { display: inline-block; min-width: 3.3rem; font-weight: 600; } .right .v { color: var(--right); }
.wrong .v { color: var(--wrong); } .error .v { color: var(--error); } .skipped .v { color: var(--skipped); }
form { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center;
  padding: .6rem 0; background: var(--ground); border-bottom: 1px solid var(--line); }
form[hidden], details[hidden] { display: none; }
select, input { font: inherit; color: inherit; background: var(--read); border: 1px solid var(--line);
  border-radius: 6px; padding: .3rem .5rem; } input { flex: 1 1 10rem; min-width: 0; }
:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
@media (max-width: 34rem) { .score { grid-template-columns: 1fr 4rem; } .track { grid-column: 1 / 3; grid-row: 2; }
  .score .n { grid-column: 1 / 3; } dl { grid-template-columns: 1fr; } dd { padding-left: 1rem; } }
"""
_SCRIPT = """
const form = document.forms[0], replies = [...document.querySelectorAll("details[data-c]")], texts = new Map();
const text = one => texts.get(one) ?? texts.set(one, one.textContent.toLowerCase()).get(one);
function show() {
  const which = form.capability.value, state = form.state.value, wanted = form.search.value.trim().toLowerCase();
  let count = 0;
  for (const one of replies) {
    const fits = (!which || one.dataset.c === which) && (!state || one.classList.contains(state)) &&
      (!wanted || text(one).includes(wanted));
    one.hidden = !fits;
    count += fits;
  }
  document.getElementById("count").textContent = count + " of " + replies.length;
}
form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""


def capability_page(report: CapabilityReport) -> str:
    """The page as text.

    Args:
        report: Of any number of capabilities.

    Example:
        >>> page = capability_page(CapabilityReport({"timing": CapabilityScore("timing", 0.5, 2)}, model="a < b"))
        >>> "a &lt; b" in page, "Timing" in page
        (True, True)
    """
    shown = {name: _shown(score.replies) for name, score in report.scores.items()}
    budget = _FRAME_BYTES + _REPLY_BYTES * sum(map(len, shown.values()))
    for length in _TEXT_LENGTHS:
        page = "\n".join(_lines(report, shown, length))
        if len(page.encode("utf-8", "replace")) <= budget:
            break
    return page


def state_of(record: Mapping[str, Any]) -> str:
    """Whether a reply was right, wrong (worth less than 1), an error or skipped.

    Example:
        >>> state_of({"error": None, "value": 0.5}), state_of({"error": "ValueError", "value": None})
        ('wrong', 'error')
    """
    if record.get("error") is not None:
        return "error"
    value = record.get("value")
    return "skipped" if value is None else "right" if value >= 1 else "wrong"


def _shown(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(records) <= MOST_REPLIES:
        return list(records)
    order = ("error", "wrong", "skipped", "right")
    chosen = sorted(range(len(records)), key=lambda at: order.index(state_of(records[at])))[:MOST_REPLIES]
    return [records[at] for at in sorted(chosen)]


def _lines(report: CapabilityReport, shown: Mapping[str, Sequence[Mapping[str, Any]]], length: int) -> Iterator[str]:
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(_title(report))}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>'
    yield f"<h1>Agent Capability Report</h1><p>{_text(report.model)}</p>"
    about = [report.created, f"sage-libs {report.version}", *(f"{k} {v}" for k, v in report.settings.items())]
    yield f"<p>{_text(' · '.join(filter(None, about)))}</p>"
    if report.unfinished:
        yield f"<p><b>Unfinished: {_text(report.unfinished_text())}</b></p>"
    yield "<h2>Scores</h2>"
    for name, score in report.scores.items():
        yield _bar(title_of(name), score.score, score, report.test_sets.get(name, ""))
    yield _bar("Overall", report.overall, None, "plain mean of what was measured")
    for name, score in report.scores.items():
        yield from _figures(name, score)
    if any(shown.values()):
        yield "<h2>Replies</h2>"
        yield from _form(shown)
    for name, records in shown.items():
        total = len(report.scores[name].replies)
        if total > len(records):
            yield f"<p>{title_of(name)}: {len(records)} of {total} replies, errors and wrong ones first.</p>"
        for record in records:
            yield _reply(name, record, length)
    yield f"<script>{_SCRIPT}</script></body></html>\n" if any(shown.values()) else "</body></html>\n"


def _title(report: CapabilityReport) -> str:
    return f"{score_text(report.overall)} · {report.model or 'model'} · Agent Capability Report"


def _bar(title: str, value: float, score: CapabilityScore | None, source: str) -> str:
    said, marks = [source], ""
    if not math.isnan(value):
        marks = f'<span class="fill" style="width:{100 * value:.1f}%"></span>'
    if score is not None:
        said = [counts(score), source]
        if score.interval is not None:
            low, high = 100 * score.interval.low, 100 * score.interval.high
            share = round(100 * score.details["interval"].get("confidence", 0.95), 1)
            said.insert(0, f"{share:g}% interval {low:.0f} to {high:.0f}%")
            marks += f'<span class="ci" style="left:{low:.1f}%;width:{high - low:.1f}%"></span>'
    text = score_text(value)
    label = _attribute(f"{title}: {text}")
    return (
        f'<div class="score"><b>{_text(title)}</b><div class="track" role="img" aria-label="{label}">{marks}</div>'
        f'<b>{text}</b><span class="n">{_text(" · ".join(filter(None, said)))}</span></div>'
    )


def _figures(name: str, score: CapabilityScore) -> Iterator[str]:
    details = score.details
    own = {key: value for key, value in details.items() if key not in _SHOWN_ELSEWHERE}
    figures = list(_flat(own))
    if details.get("cut_off"):
        figures.append(("cut off at the token limit", details["cut_off"]))
    if figures:
        pairs = "".join(f"<dt>{_text(key)}</dt><dd>{_text(_number(value))}</dd>" for key, value in figures)
        yield f"<h2>{_text(title_of(name))}</h2><dl>{pairs}</dl>"


def _flat(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        name = f"{above}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        else:
            yield name, value


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else without_middle(value_text(value), 300)


def _form(shown: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    names = "".join(f'<option value="{_attribute(name)}">{_text(title_of(name))}</option>' for name in shown)
    found = {state_of(record) for records in shown.values() for record in records}
    states = "".join(f'<option value="{key}">{title}</option>' for key, title in _STATES.items() if key in found)
    yield (
        '<form hidden><select name="capability" aria-label="Capability"><option value="">All capabilities</option>'
        f'{names}</select><select name="state" aria-label="Which replies"><option value="">All replies</option>{states}'
        '</select><input type="search" name="search" placeholder="Search the replies" aria-label="Search the replies">'
        '<small id="count" role="status"></small></form>'
    )


def _reply(name: str, record: Mapping[str, Any], length: int) -> str:
    state, value = state_of(record), record.get("value")
    mark = f"{value:.2f}" if value is not None else state
    why = str(record.get("error") or record.get("reason") or "")
    parts = [("Prompt", conversation_text(record.get("prompt"))), ("Reply", str(record.get("reply") or ""))]
    if state != "error":
        parts.append(("Compared", value_text(record.get("extracted"))))
    parts += [("Cut off", "at the token limit")] if record.get("cut") else []
    body = "".join(
        f"<small>{title}</small><pre>{_text(without_middle(text, length))}</pre>" for title, text in parts if text
    )
    return (
        f'<details class="{state}" data-c="{_attribute(name)}"><summary><span class="v">{mark}</span> '
        f"{_text(without_middle(str(record.get('id')), 80))} <small>{_text(without_middle(why, 160))}</small></summary>"
        f"{body}</details>"
    )


def _text(value: object) -> str:
    """Text for between tags; what is no valid Unicode becomes a question mark."""
    return escape(valid(value), quote=False)


def _attribute(value: object) -> str:
    return escape(valid(value))
