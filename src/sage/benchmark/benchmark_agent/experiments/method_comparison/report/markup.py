"""HTML of texts and tables. Every text goes through `text` or `attribute`, so that none can be markup."""

from __future__ import annotations

from html import escape

from sage.benchmark.benchmark_agent.experiments.method_comparison.report.tables import Sheet
from sage.libs.finetune.agent.reporting.reply_text import valid


def text(value: object) -> str:
    """Text for between tags."""
    return escape(valid(value), quote=False)


def breaking(name: object) -> str:
    """A name for between tags, which may go on in the next line after any underscore but its first."""
    first, *rest = text(name).split("_", 1)
    return "_".join([first, *(part.replace("_", "_<wbr>") for part in rest)])


def attribute(value: object) -> str:
    """Text for an attribute in double quotes."""
    return escape(valid(value))


def paragraphs(sentences: list[str], kind: str = "") -> str:
    """One paragraph a sentence."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return "".join(f"{opening}{text(sentence)}</p>" for sentence in sentences)


def table(sheet: Sheet) -> str:
    """A table of text; one that is too wide for the screen scrolls by itself, also with the keyboard."""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in sheet.columns)
    rows = "".join(
        f'<tr><th scope="row">{breaking(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in sheet.rows
    )
    return scrolling(
        sheet.caption,
        f"<table>{captioned(sheet.caption)}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>",
    )


def captioned(caption: str) -> str:
    """A table's caption, which stays in sight when the table scrolls."""
    return f"<caption><span>{text(caption)}</span></caption>"


def scrolling(name: str, content: str) -> str:
    """A region that scrolls sideways."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{attribute(name)}">{content}</div>'


def section(anchor: str, title: str, *content: str) -> str:
    """A part of the page with its heading; nothing when it would be empty."""
    inside = "".join(content)
    if not inside:
        return ""
    heading = f'<h2 id="{anchor}-title">{title}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{heading}{inside}</section>'


def shut(summary: str, content: str) -> str:
    """Something that opens when asked to."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"
