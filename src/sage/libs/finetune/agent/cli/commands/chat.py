"""`chat`: talk to a model in the terminal, with tools by hand or an environment that runs them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.progress import Progress


@dataclass
class ChatConfig(Config):
    """Which model, with which tools."""

    model: str = option(help="run folder, adapter, model folder or model id", positional=True)
    tools: Path | None = option(None, "JSON file with a list of tools; you are asked what comes of each call")
    env: str | None = option(None, "environment that runs the calls of one of its tasks: desk, textcraft ...")
    split: str | None = option(None, "env: which of its tasks, else train")
    task: int = option(1, "env: the number of the task to begin with", low=1)
    system: str | None = option(None, "system message; with --env in place of the task's own")
    max_new_tokens: int = option(256, "longest reply, in tokens", low=1)
    max_steps: int = option(10, "replies with calls in a row, after which it is your turn again", low=1)
    temperature: float = option(0.0, "draw the replies; 0 is the likeliest", low=0.0)
    seed: int = option(0, "fixes the tasks and what is drawn", low=0)
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "weights; auto is bfloat16 where the processor computes in it"
    )

    def conflicts(self) -> list[str]:
        """Tools come from one place; a split and a task belong to an environment."""
        faults = ["'tools' and 'env' exclude each other; give one"] if self.tools and self.env else []
        if self.env is None and (self.split is not None or self.task != 1):
            faults.append("'split' and 'task' are for --env")
        return faults


def run(config: ChatConfig, progress: Progress) -> Report:
    """Talk until `/quit` or the end of the input; the report is the conversation as it was then.

    Raises:
        AgentFinetuneError: when the model cannot be loaded, or tools or environment not be used.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers
    from sage.libs.finetune.agent.environments.known import environment_named

    tools = _read_tools(config.tools) if config.tools else []
    if config.env is not None:
        environment_named(config.env)  # a wrong name is told before the model is loaded
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is no UTF-8 ends no sitting
    quiet_transformers()
    with redirect_stdout(sys.stderr):
        from sage.libs.finetune.agent.cli.chat_loop import ChatLoop
        from sage.libs.finetune.agent.models.load import load_model

        loaded = load_model(config.model, dtype=config.dtype)
    loop = ChatLoop(config, loaded, tools)
    loop.run()
    conversation = loop.conversation
    return Report({"model": config.model, "messages": conversation.messages, "tools": conversation.tools})


def _read_tools(path: Path) -> list[dict[str, Any]]:
    """The tools of a JSON file: a list of them, or an object with `tools`.

    Raises:
        DataError: when it holds something else.
    """
    from sage.libs.finetune.agent.jsonl import read_json
    from sage.libs.finetune.agent.types import check_tools

    found = read_json(path)
    if isinstance(found, dict) and "tools" in found:
        found = found["tools"]
    if not isinstance(found, list) or not found:
        raise DataError(
            f"{path}: expected a list of tools, each {{'type': 'function', 'function': {{...}}}}, "
            f"found {'an empty one' if found == [] else type(found).__name__}"
        )
    check_tools(found, str(path))
    return found


COMMAND = Command(
    name="chat",
    help="Talk to a model in the terminal.\n\n"
    "/reset starts again, /next takes the environment's next task, /save FILE.jsonl adds the conversation to a file "
    "as a training row, /quit or Ctrl-D ends, Ctrl-C interrupts a reply. From a pipe each line is a turn of yours.",
    example="sage-finetune chat runs/first --env desk --split dev",
    config=ChatConfig,
    run=run,
    talks=True,
)
