"""The terminal side of `chat`: reads lines, shows replies while they are written, carries out what is asked for.

On a terminal there is a prompt, colour and the speed of each reply; from a pipe a line is a turn of the user's (or the
observation that was asked for), and what is printed is plain.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.cli.conversation import Call, Conversation, Reply, saved_row
from sage.libs.finetune.agent.cli.task_at_hand import TaskAtHand
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.models.load import LoadedModel

if TYPE_CHECKING:
    from sage.libs.finetune.agent.cli.commands.chat import ChatConfig

COMMANDS = "/reset, /save FILE.jsonl, /quit"
_SAVE = "give a file of rows: /save FILE.jsonl"
_CALL_BEGINS = re.compile(r"<tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|\{|\[\s*\{")
_MAY_BEGIN = re.compile(r"(<[^<>]{0,15}|\[[A-Z_\s]{0,12})\Z")


class ChatLoop:
    """One sitting.

    Args:
        config: The command's settings.
        loaded: Model and tokenizer.
        tools: Those the user answers for; with an environment the task brings its own.

    Attributes:
        conversation: As it is now.
    """

    def __init__(self, config: ChatConfig, loaded: LoadedModel, tools: list[dict[str, Any]]) -> None:
        self._config, self._tools = config, tools
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = sys.stdin.isatty() and self._console.is_terminal
        self._number = config.task
        self._saved: dict[Path, str] = {}  # rows of this conversation, by file
        self._task: TaskAtHand | None = None
        self.conversation = Conversation(
            loaded, tools, config.system, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            seed=config.seed,
        )  # fmt: skip
        if self._live:
            with contextlib.suppress(ImportError):  # line editing and history, where Python has them
                import readline  # noqa: F401

    def run(self) -> None:
        """Until `/quit` or the end of the input."""
        if self._live:
            more = f"/next, {COMMANDS}" if self._config.env else COMMANDS
            self._show(self._config.model, "bold")
            self._show(f"{more}; Ctrl-C interrupts a reply", "dim")
        try:
            self._begin()
            while True:
                try:
                    line = self._line("> ")
                except KeyboardInterrupt:
                    if not self._live:
                        raise
                    self._show("\n(Ctrl-D or /quit ends)", "dim")
                    continue
                if line.strip() == "/quit":
                    return
                self._take(line)
        except EOFError:
            if self._live:
                self._show("")
        finally:
            self._leave_task()

    def _begin(self) -> None:
        """Start the conversation; with an environment its task is the first turn."""
        self._leave_task()
        self._saved = {}
        if self._config.env is None:
            self.conversation.begin(self._tools, self._config.system)
            return
        self._task = TaskAtHand(self._config.env, self._config.split, self._number, self._config.seed)
        task = self._task.task
        system = self._config.system if self._config.system is not None else task.get("system_prompt")
        self.conversation.begin(task["tools"], system)
        self._show(f"task {task['task_id']}: {self._task.opening}", "bold")
        self.conversation.say(self._task.opening)
        self._answer()

    def _leave_task(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None

    def _take(self, line: str) -> None:
        """One line of the user's: a command or a turn."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        if word == "/reset":
            self._begin()
            if self._task is None:
                self._show("(a new conversation)", "dim")
        elif word == "/next" and self._config.env is not None:
            self._number += 1
            self._begin()
        elif word == "/save":
            self._save(rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            self._show(f"there is no {word}; there are {COMMANDS}", "yellow")
        else:
            self.conversation.say(line)
            self._answer()

    def _save(self, name: str) -> None:
        row = saved_row(self.conversation, self._config.model)
        if row is None or not name.endswith(".jsonl"):
            self._show("nothing to save: no whole reply yet" if row is None else _SAVE, "yellow")
            return
        path, line = Path(os.path.expanduser(name)), json.dumps(row, ensure_ascii=False)
        try:
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
            lines = [old for old in lines if old]
            if self._saved.get(path) in lines:  # it has gone on since: the row is replaced
                lines.remove(self._saved[path])
            jsonl.write_text(path, "\n".join([*lines, line, ""]))
        except (OSError, UnicodeDecodeError, DataError) as error:  # a conversation must survive a slip of the pen
            self._show(str(error) if isinstance(error, DataError) else f"{path}: cannot be read ({error})", "yellow")
        else:
            self._saved[path] = line
            self._show(f"saved as row {len(lines) + 1} of {path}", "dim")

    def _answer(self) -> None:
        """Replies until one makes no calls."""
        for _ in range(self._config.max_steps):
            try:
                reply = self._reply()
            except DataError as error:  # the template cannot show this turn
                self.conversation.take_back("user")
                self._show(f"{error}; your turn was taken back", "yellow")
                return
            if reply.error is not None:
                return
            if not reply.calls:
                self._judge(reply)
                return
            if not self._carry_out(reply.calls):
                return
        self._show(f"({self._config.max_steps} replies with calls; your turn)", "yellow")

    def _reply(self) -> Reply:
        """Show a reply while it is being written: words at once, calls when they are whole."""
        shown = 0
        waiting = self._console.status("", spinner="dots")
        waiting.start()

        def on_text(text: str) -> None:
            nonlocal shown
            call = _CALL_BEGINS.search(text) or _MAY_BEGIN.search(text)
            until = call.start() if call else len(text)
            if until > shown:
                waiting.stop()
                self._write(text[shown:until], "dim" if _thinks(text) else "")
                shown = until

        try:
            reply = self.conversation.reply(on_text)
        finally:
            waiting.stop()
        if not reply.calls and len(reply.text) > shown:
            self._write(reply.text[shown:])
        if reply.text[: shown if reply.calls else None].strip():
            self._show("")
        if reply.error is not None:
            if not reply.text:
                self.conversation.take_back("user")
            self._show(f"({reply.error}{'' if reply.text else '; your turn was taken back'})", "yellow")
        for call in reply.calls:
            self._show(Text.assemble(("call ", "dim"), (call.name, "bold cyan"), f" {_json(call.arguments)}"))
            if call.fault is not None:
                self._show(f"invalid: {call.fault}", "yellow")
        if self._live and reply.tokens:
            rate = reply.tokens / reply.seconds if reply.seconds else 0.0
            kept = f"; {reply.cached} tokens of the prompt kept" if reply.cached else ""
            self._show(f"{reply.tokens} tokens, {rate:.0f}/s{kept}", "dim")
        return reply

    def _carry_out(self, calls: list[Call]) -> bool:
        """Have each call answered, by the environment or the user; False gives the turn back to the user."""
        judged = self._task is None or self._task.verdict is not None
        for call in calls:
            if self._task is not None:
                observation = self._task.run(call)
                self._show(f"-> {observation}", "green" if call.fault is None else "yellow")
            else:
                try:
                    observation = self._line(f"{call.name} -> ")
                except (KeyboardInterrupt, EOFError) as end:
                    self.conversation.take_back("assistant")
                    if isinstance(end, EOFError) or not self._live:
                        raise
                    self._show("\n(the call was taken back)", "dim")
                    return False
                if call.fault is not None and not observation:
                    observation = f"error: {call.fault}"
            self.conversation.observe(call, observation)
        if not judged and self._task is not None and self._task.verdict is not None:
            self._tell_verdict()
            return False
        return True

    def _judge(self, reply: Reply) -> None:
        if self._task is not None and self._task.verdict is None:
            self._task.judge(reply.content)
            self._tell_verdict()

    def _tell_verdict(self) -> None:
        assert self._task is not None and self._task.verdict is not None
        success = self._task.verdict.success
        words = {True: "the task is fulfilled", False: "the task is not fulfilled", None: "nobody judges this task"}
        style = {True: "bold green", False: "bold red", None: "dim"}[success]
        self._show(f"{words[success]} (reward {self._task.verdict.reward:g})", style)

    def _line(self, prompt: str) -> str:
        if not self._live:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.rstrip("\r\n")
        # Readline must know which signs take no room, or it breaks long lines in the wrong place.
        return input(f"\001\033[1;36m\002{prompt}\001\033[0m\002")

    def _write(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), end="")
        self._console.file.flush()

    def _show(self, line: str | Text, style: str = "") -> None:
        self._console.print(line if isinstance(line, Text) else Text(line, style=style))
        self._console.file.flush()


def _thinks(text: str) -> bool:
    return text.lstrip().startswith("<think>") and "</think>" not in text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
