"""The report of a comparison: for the terminal, as Markdown, and as one page. Made of a folder of runs at any time.

grid        what the folder holds            words       what it says, in sentences
tables      the numbers as tables            charts      SVG, drawn by ourselves
figures     numbers as pictures              samples     rows that were trained on and selected
replies     what the models said             page        all of it in one HTML file (page.css, page.js)
markdown    for a pull request               screen      for a terminal of 80 columns
reproduce   the command and the versions
"""

from __future__ import annotations

from pathlib import Path

from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import read_grid
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markdown import markdown_text
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.page import html_page
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.screen import terminal
from sage.libs.finetune.agent import jsonl

__all__ = ["terminal", "write_report"]

MARKDOWN, PAGE = "report.md", "report.html"


def write_report(folder: str | Path) -> list[Path]:
    """Write `report.md` and `report.html` beside the runs, whether all of them are finished or not.

    Args:
        folder: That of the runs.

    Returns:
        The two files.

    Raises:
        DataError: when the folder holds no result, a file of a run cannot be read, or the report cannot be written.

    Example:
        >>> write_report("runs/comparison")  # doctest: +SKIP
        [PosixPath('runs/comparison/report.md'), PosixPath('runs/comparison/report.html')]
    """
    grid = read_grid(folder)
    paths = [Path(folder) / MARKDOWN, Path(folder) / PAGE]
    for path, content in zip(paths, (markdown_text(grid), html_page(grid)), strict=True):
        jsonl.write_text(path, content)
    return paths
