"""The report as one HTML page that needs nothing but itself.

Everything but the replies is there without its script, which does no more than list and filter them. Light or dark as
the reader's system is. Style and script are files beside this one, so that they can be read as what they are.
"""

from __future__ import annotations

import json
import shlex
from importlib.resources import files

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import (
    figures,
    reproduce,
    samples,
    tables,
    words,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markup import (
    attribute,
    paragraphs,
    section,
    shut,
    table,
    text,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.replies import (
    STATES,
    Replies,
    collect_replies,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_TITLE = "Comparison of training methods"
_STATE_NAMES = {"error": "Errors", "wrong": "Wrong", "skipped": "Skipped", "right": "Right"}


def html_page(grid: GridResults) -> str:
    """The page as text.

    Args:
        grid: Finished or not.

    Raises:
        DataError: for a report or rows of a run that cannot be read.
    """
    replies = collect_replies(grid)
    sections = {
        "result": ("Result", _result(grid)),
        "scores": ("Scores", table(tables.scores(grid)) + figures.capability_bars(grid)),
        "baseline": ("Against the baseline", figures.forest_plot(grid)),
        "costs": ("Quality against cost", figures.cost_plots(grid) + table(tables.costs(grid))),
        "rates": ("Learning rates", figures.rate_sweep(grid)),
        "curves": ("Learning curves", figures.learning_curves(grid)),
        "forgetting": ("Forgetting", figures.forgetting_matrices(grid)),
        "selected": ("Selected rows", samples.selection_maps(grid)),
        "rows": ("What was trained on", samples.trained_rows(grid)),
        "replies": ("Replies", _replies(replies)),
        "configurations": ("Configurations", _configurations(grid)),
        "reproduce": ("How to reproduce", _reproduce(grid)),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, content) in sections.items() if content)
    model = text(grid.settings.get("base_model", "unknown"))
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_TITLE}: {model}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">',
        f"<style>{_asset('page.css')}</style></head><body>",
        '<a class="skip" href="#result">Skip to the result</a>',
        f'<header><h1>{_TITLE}</h1><p>{model}</p><nav aria-label="Sections">{links}</nav></header><main>',
        *(section(name, title, content) for name, (title, content) in sections.items() if content),
        f'</main><script type="application/json" id="data">{replies.json()}</script>',
        f"<script>{_asset('page.js')}</script></body></html>\n",
    ])  # fmt: skip


def _result(grid: GridResults) -> str:
    said = words.verdict(grid)
    notes = "".join(f"<li>{text(note)}</li>" for note in words.notes(grid))
    unfinished = tables.unfinished(grid)
    return (
        paragraphs(said, "verdict")
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + (table(unfinished) if unfinished is not None else "")
    )


def _replies(replies: Replies) -> str:
    if not replies.total:
        return "<p>No run has left replies.</p>"
    methods = dict.fromkeys(method for method, _ in replies.data["runs"])
    seeds = sorted({seed for _, seed in replies.data["runs"]})
    states = {**{name: _STATE_NAMES[name] for name in STATES},
              "gained": "Better than the baseline's", "lost": "Worse than the baseline's"}  # fmt: skip
    choices = (
        ("method", "All methods", [(name, name) for name in methods]),
        ("seed", "All seeds", [(str(seed), f"Seed {seed}") for seed in seeds]),
        ("capability", "All capabilities", [(name, name) for name in replies.data["capabilities"]]),
        ("state", "All replies", list(states.items())),
    )
    selects = "".join(_select(*choice) for choice in choices)
    said = [f"Texts of more than {replies.longest} characters are cut in their middle."]
    if replies.kept < replies.total:
        said.append(
            f"{replies.kept:,} of {replies.total:,} replies are in this page: of each run the same share, errors and "
            "wrong ones first. All of them are in the runs' report.json."
        )
    if replies.missing:
        said.append(f"No replies were kept of {', '.join(replies.missing)}.")
    return (
        f"<p>{text(' '.join(said))}</p><noscript><p>The list of replies needs JavaScript.</p></noscript>"
        f'<form id="filters" hidden aria-label="Which replies">{selects}<label class="search"><span>Search</span>'
        '<input type="search" name="search" autocomplete="off"></label><output id="count" role="status"></output>'
        '</form><div id="list"></div><button id="more" type="button" hidden>Show more</button>'
    )


def _select(name: str, everything: str, options: list[tuple[str, str]]) -> str:
    inside = "".join(f'<option value="{attribute(value)}">{text(title)}</option>' for value, title in options)
    return (
        f'<label><span>{name.capitalize()}</span><select name="{name}"><option value="">{everything}</option>{inside}'
        "</select></label>"
    )


def _configurations(grid: GridResults) -> str:
    methods = []
    for method in grid.methods:
        differs = tables.settings_of(method.settings)
        about = str(method.settings.get("description") or "")
        said = (
            ", ".join(f"{name}: {_plain(value)}" for name, value in differs.items()) or "all settings at their default"
        )
        rows = [(name, _plain(value)) for name, value in method.settings.items()]
        inside = table(tables.Sheet(f"All settings of {method.method_id}", ("setting", "value"), rows))
        methods.append(shut(method.method_id, f"<p>{text(about)}</p><p>{text(said)}</p>{inside}"))
    common = [(name, _plain(value)) for name, value in grid.settings.items()]
    sheet = table(tables.Sheet("Settings of the comparison, the same for all methods", ("setting", "value"), common))
    return "".join(methods) + shut("The comparison", sheet)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _reproduce(grid: GridResults) -> str:
    facts = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in reproduce.facts(grid).items())
    return (
        f'<pre tabindex="0">{text(reproduce.command(grid))}</pre>'
        f"{paragraphs(reproduce.caveats(grid))}<dl>{facts}</dl>"
        "<p>The same command goes on with an unfinished comparison. This page is made again, at any time, by "
        f"<code>sage-finetune report {text(shlex.quote(str(grid.folder)))}</code>.</p>"
    )


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")
