"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest
from tests.contract.source_files import module_names


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
