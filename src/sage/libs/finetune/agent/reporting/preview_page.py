"""A preview of training rows as one HTML page that needs nothing but itself: no script, no font, no address.

Light or dark as the reader's system is. A token shows its id and weight at the foot of the page while the pointer is
on it, or after a tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sage.libs.finetune.agent.reporting.preview import Piece, RowPreview, visible

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --read: #eef1f4;
  --trained: #aceebb; --trained2: #6fdd8b; --zero: #ffe7a3; --control: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #30363d;
  --read: #1c2229; --trained: #1a5c2e; --trained2: #26803f; --zero: #5c4813; --control: #d2a8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; overflow-wrap: anywhere; margin: 2rem 0 .5rem; }
p { color: var(--soft); overflow-wrap: anywhere; }
.row { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  border: 1px solid var(--line); border-radius: 6px; padding: .7rem; }
.t { border-radius: 2px; cursor: default; } .t.b { background: var(--read); }
.y { background: var(--trained); text-decoration: underline; text-underline-offset: 3px; }
.y.b { background: var(--trained2); } .z { background: var(--zero); } .c { color: var(--control); font-weight: 600; }
.y.c { color: inherit; } .w { color: var(--soft); font-size: .8em; }
.t:hover, .t:focus { outline: 2px solid var(--ink); }
.t:hover::after, .t:focus::after { content: attr(data-i); position: fixed; left: 0; right: 0; bottom: 0; z-index: 1;
  padding: .6rem 1rem; background: var(--ink); color: var(--ground); font: 14px/1.4 system-ui, sans-serif; }
"""
_LEGEND = (
    '<p class="legend"><span class="t y">trai</span><span class="t y b">ned</span> &ensp; '
    '<span class="t">only </span><span class="t b">read</span> &ensp; <span class="t z">turn of weight 0</span> &ensp; '
    '<span class="t c">control token</span> &ensp; ↵ line end &ensp; point at a token, or tap it, for id and weight</p>'
)


def preview_page(title: str, facts: Sequence[str], rows: Sequence[RowPreview]) -> str:
    """The page as text.

    Args:
        title: Its heading.
        facts: Lines below the heading, such as the model and the template.
        rows: The rows, in their order.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    lines = [f"<!doctype html><html lang=en><head>{head}<title>{escape(title)}</title>"]
    lines += [f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"]
    lines += [f"<p>{escape(fact)}</p>" for fact in facts]
    lines.append(_LEGEND)
    for row in rows:
        lines.append(f'<h2>{escape(row.headline)}</h2>\n<div class="row">{_tokens(row.pieces)}</div>')
    return "\n".join([*lines, "</body></html>\n"])


def _tokens(pieces: Sequence[Piece]) -> str:
    spans: list[str] = []
    turn = None
    for index, piece in enumerate(pieces):
        if piece.turn is not None and piece.turn != turn and piece.weight != 1:
            spans.append(f'<span class="w">×{piece.weight:g} </span>')
        turn = piece.turn
        spans.append(_token(piece, index))
    return "".join(spans)


def _token(piece: Piece, index: int) -> str:
    classes = ["t"]
    if piece.weight:
        classes.append("y")
    elif piece.turn is not None:
        classes.append("z")
    classes += ["b"] * (index % 2) + ["c"] * piece.special
    ids = ", ".join(map(str, piece.ids))
    about = f"token {ids} · weight {piece.weight:g} · {visible(piece.text)!r}"
    return (
        f'<span class="{" ".join(classes)}" tabindex="0" data-i="{escape(about)}">{escape(visible(piece.text))}</span>'
    )
