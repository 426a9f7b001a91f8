"""Every code block of the README and of `docs/` works.

Python is executed, the blocks of a page one after another in one namespace. Shell lines go through the real command
line: every one is parsed, flags, config file and all; those that take about a second are run, a page's in one folder,
so that each finds what the one before it wrote. YAML is read by the config it is written for. What can do none of this
stands under a comment `<!-- not run: reason -->`, and is counted.
"""

from __future__ import annotations

import json
import re
import threading
import tomllib
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from tests.contract.source_files import ROOT
from tests.docs import stand_ins
from tests.docs.blocks import LANGUAGES, Block, blocks, command_lines, pages

from sage.libs.finetune.agent.cli import main as cli
from sage.libs.finetune.agent.cli.launch import _parsed as parsed_by_accelerate
from sage.libs.finetune.agent.config import Config
from sage.libs.finetune.agent.errors import ConfigError

NOT_RUN = 3
"""Blocks that are not run, in all pages together; a new one is a decision."""

RUN = {"collect", "filter", "convert", "preferences", "data", "select", "mix", "env"}
"""Commands that take a second with a tiny model; `train --dry-run` is another."""
TOO_LONG = re.compile(r"--agent endpoint|runs/|--executor ray|agent_\w+:train|--config")
"""Command lines that are parsed only: no server, no trained model, a cluster, a larger pool."""
PACKAGES = {"bfcl-eval"}
"""What else a page may tell to install."""

BLOCKS = [block for page in pages() for block in blocks(page)]


def of(language: str) -> dict[str, list[Block]]:
    """The blocks that can be run, by page."""
    found: dict[str, list[Block]] = {}
    for block in BLOCKS:
        if block.language == language and block.not_run is None:
            found.setdefault(block.page, []).append(block)
    return found


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    stand_ins.furnish(folder)
    return folder


@pytest.fixture
def here(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for a page, with all that pages speak of."""
    for path in furnished.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name in ("runs", "Qwen"):  # folders that pages write into
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        for path in (furnished / name).iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return tmp_path


class Shipped(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that knows one answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "shipped"}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "my-model"}
        body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        said = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shipped)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_fence_is_a_block_that_says_what_it_is() -> None:
    fences = sum(len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.M)) for page in pages())
    assert fences == 2 * len(BLOCKS)
    assert not [block.place for block in BLOCKS if block.language not in LANGUAGES]


def test_output_holds_no_code() -> None:
    code = re.compile(r"^(sage-finetune|make|pip|from|import) ", re.M)
    assert not [block.place for block in BLOCKS if not block.language and code.search(block.text)]


def test_what_is_not_run_is_counted_and_has_a_reason() -> None:
    left_out = [(block.place, block.not_run) for block in BLOCKS if block.not_run is not None]
    assert len(left_out) == NOT_RUN, left_out
    marks = sum(page.read_text(encoding="utf-8").count("<!-- not run:") for page in pages())
    assert marks == NOT_RUN, "a mark stands directly above its block"


@pytest.mark.parametrize("page", of("python"))
def test_python(page: str, here: Path, endpoint: str) -> None:
    names = {"__name__": "page", **stand_ins.names()}
    shorter = stand_ins.SHORTER.get(page, [])
    whole = "".join(block.text for block in of("python")[page])
    assert [whole.count(old) for old, _ in shorter] == [1] * len(shorter)
    for block in of("python")[page]:
        text = block.text.replace("http://localhost:8000", endpoint)
        for old, new in shorter:
            text = text.replace(old, new)
        exec(compile("\n" * (block.line - 1) + text, ROOT / page, "exec"), names)


def test_own_endpoint_was_asked(here: Path, endpoint: str) -> None:
    """The page on collecting really collects: its one task is solved by what the server says."""
    names = stand_ins.names()
    text = "".join(block.text for block in of("python")["docs/collection.md"])
    exec(text.replace("http://localhost:8000", endpoint), names)
    assert [trajectory.success for trajectory in names["trajectories"]] == [True] * 4


@pytest.mark.parametrize("page", of("bash"))
def test_shell(page: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(page, here)
    for block in of("bash")[page]:
        for words in command_lines(block.text):
            try:
                check(words)
            except (AssertionError, ConfigError, cli.typer.TyperException) as error:
                shown = capsys.readouterr().err
                pytest.fail(f"{block.place}: {' '.join(words)}: {error}; {shown}", pytrace=False)


def write_files(page: str, here: Path) -> None:
    """Files that the page itself shows: Python that begins with `# NAME.py`, and streams."""
    for block in of("python").get(page, []):
        if named := re.match(r"# (\w+\.py)\n", block.text):
            (here / named[1]).write_text(block.text)
    for block in of("yaml").get(page, []):
        (here / "stream.yaml").write_text(block.text)


def check(words: list[str]) -> None:
    """One line of a shell block is what it should be.

    Raises:
        AssertionError: when it is no command, names what is not there, or fails.
        ConfigError: when its settings are wrong.
        TyperException: for a flag that does not exist.
    """
    program, *arguments = words
    if program == "sage-finetune":
        check_command(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(arguments) <= set(targets), f"targets are {targets}"
    elif program == "pip":
        check_packages(arguments)
    elif program.endswith("python"):
        assert (ROOT / arguments[0]).is_file()
    elif program.endswith("pytest"):
        assert all((ROOT / word).exists() or word in ("-m", "slow") for word in arguments)
    else:
        raise AssertionError("not a command this test knows; mark the block, or teach the test")


def check_command(arguments: list[str]) -> None:
    own, launched = cli.split(arguments)
    invocation = cli._app()(own, prog_name=cli.PROGRAM, standalone_mode=False)
    assert isinstance(invocation, cli.Invocation)
    cli._config(invocation)
    if launched is not None:
        parsed_by_accelerate(own, launched)
    cheap = arguments[0] in RUN or (arguments[0] == "train" and "--dry-run" in arguments)
    if cheap and launched is None and not TOO_LONG.search(" ".join(arguments)):
        assert cli.main(prepared(arguments)) == 0


def prepared(arguments: list[str]) -> list[str]:
    """The line as it is run: a collection begins its file anew, and has few tasks."""
    if arguments[0] != "collect":
        return arguments
    Path(arguments[arguments.index("-o") + 1]).unlink(missing_ok=True)
    at = arguments.index("--num-tasks") + 1
    return [*arguments[:at], str(min(12, int(arguments[at]))), *arguments[at + 1 :]]


def check_packages(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in arguments:
        name, extras = re.fullmatch(r"([\w-]+)(?:\[([\w,-]+)\])?", word).groups()  # type: ignore[union-attr]
        if name == project["name"]:
            assert set((extras or "bench").split(",")) <= set(project["optional-dependencies"]), word
        else:
            assert name in PACKAGES or name in ("install", "--no-deps"), word


@cache
def config_classes() -> list[type[Config]]:
    return list(dict.fromkeys(command.config for command in cli.COMMANDS))


@pytest.mark.parametrize("block", [block for found in of("yaml").values() for block in found], ids=lambda b: b.place)
def test_yaml(block: Block, here: Path) -> None:
    values = yaml.safe_load(block.text)
    refusals = []
    for config in config_classes():
        try:
            config.from_dict(values)
            return
        except ConfigError as error:
            refusals.append(f"{config.__name__}: {error}")
    splits = [split for splits in values.values() for split in splits] if set(values) == {"my_traces"} else []
    assert splits == ["train", "test"], "\n".join(refusals)
