"""The repository speaks of the project alone: no paths or addresses of the places it was written in."""

from __future__ import annotations

from tests.contract.source_files import ROOT, repository_files

# Written in two halves, so that this file does not hold them itself.
TRACES = [
    first + second
    for first, second in (
        ("/wo", "rk/"),
        ("/.lib", "rary"),
        ("help", "er-"),
        ("/opt/", "wheels"),
        ("/opt/", "pypi"),
        ("python", "hosted.org"),
        ("/ro", "ot/"),
    )
]


def test_no_file_speaks_of_where_it_was_written() -> None:
    found = []
    for path in repository_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {trace}" for trace in TRACES if trace in text]
    assert not found, "; ".join(found)
