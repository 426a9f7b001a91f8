"""The documentation is built as a site: without a warning, with every public name, and with nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.source_files import ROOT

import sage.libs.finetune.agent as agent

LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*\s(?:src|href)=["']?(?:https?:)?//""")
IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs-material and mkdocstrings: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        assert (site / page.relative_to(docs)).with_suffix(".html").is_file()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not IMPORTED.search(sheet.read_text(encoding="utf-8")), sheet


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    missing = [name for name in agent.__all__ if name != "__version__" and f'id="{agent.__name__}.{name}"' not in page]
    assert not missing


def test_a_setting_has_its_help_text_and_default(site: Path) -> None:
    """They come from `option(...)`, through `docs/settings_text.py`."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (site / "api.html").read_text(encoding="utf-8")))
    settings = agent.AgentSFTConfig.__dataclass_fields__
    row = r"lora_plus_lr_ratio float (.*?)\. Default: 16\.0 \."
    assert re.search(row, text)[1].strip() == settings["lora_plus_lr_ratio"].metadata["help"]  # type: ignore[index]
    missing = [name for name in settings if not re.search(rf" {name} [\w|\[\]' ,]+ \S", text)]
    assert not missing


def test_an_example_is_code(site: Path) -> None:
    assert not re.search(r"<blockquote>\s*<blockquote>", (site / "api.html").read_text(encoding="utf-8"))
