"""What pictures of this project share: how axes look, and that a picture is on disk whole or not at all.

matplotlib is imported when a picture is drawn, and its Agg canvas is used directly, so that no window system and no
setting of the caller's is touched.
"""

from __future__ import annotations

import os
import secrets
import warnings
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import DataError

FAINT = "#868e96"
COLOURS = ("#1f5fa8", "#d9480f", "#2b8a3e", "#9c36b5", "#e0a800", "#0b7285", "#c2255c", "#5c3d2e")
"""Told apart on screen and paper; more than eight are not, in whatever colours."""

_DPI = 150


def new_figure(width: float, height: float) -> Any:
    """An empty figure, its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Any, title: str, facts: str = "") -> None:
    """A bold title set left, and a faint line of facts below it."""
    pad = 24 if facts else 10
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=pad, parse_math=False)  # "$" is a name's
    if facts:
        axes.annotate(facts, (0, 1), (0, 10), "axes fraction", "offset points", fontsize=9, color=FAINT)


def clear_axes(axes: Any, grid: str = "y") -> None:
    """Nothing that does not carry a number; `grid` is x, y or both."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#adb5bd")
    axes.tick_params(color="#adb5bd", labelsize=9)
    axes.grid(axis=grid, color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)


def save_picture(figure: Any, path: str | Path) -> Path:
    """Write the figure as PNG, aside and then in place; its folder must be there.

    Raises:
        DataError: when it cannot be written; what was there is left as it was.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks
            figure.savefig(file, format="png", dpi=_DPI)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); free some space or give rights") from error
    finally:
        beside.unlink(missing_ok=True)
    return path
