from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.pictures import clear_axes, new_figure, save_picture, set_title


def test_a_picture_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("old")
    figure = new_figure(2.0, 1.0)
    axes = figure.subplots()
    axes.plot([0, 1])
    clear_axes(axes, "both")
    set_title(axes, "$ of 注文", "facts")  # no formula, and letters that the font lacks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert save_picture(figure, path) == path
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)] == [300, 150]
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png: cannot be written"):
        save_picture(new_figure(1.0, 1.0), tmp_path / "none" / "x.png")
