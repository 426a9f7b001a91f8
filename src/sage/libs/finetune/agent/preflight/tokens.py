"""What only a tokenizer and its chat template show: that a row trains the tokens a server would make of it.

The row is rendered by the code that training uses (`tokenization.render`, `truncate`), once, and training takes that
rendering. What a server sees is then asked of the template and the tokenizer directly, without our rendering: the
prompt before each assistant turn and the whole conversation must be the same tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.preflight.faults import Fault
from sage.libs.finetune.agent.tokenization.layout import REFUSALS, written_as
from sage.libs.finetune.agent.tokenization.render import IGNORED, Rendered, is_stop, render, special_tokens_in
from sage.libs.finetune.agent.tokenization.truncate import Truncated, truncate, windows
from sage.libs.finetune.agent.types import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPTS = 4
"""Prompts from each end of a row that are tokenised as a server does."""


@dataclass(frozen=True)
class TokenFindings:
    """A row as tokens, and what is wrong with it.

    Attributes:
        faults: Faults and notes, each kind once.
        fitted: What training takes: the row, what is left of it, or its windows. Empty when it cannot be rendered or
            cannot be made to fit.
    """

    faults: list[Fault] = field(default_factory=list)
    fitted: list[Truncated] = field(default_factory=list)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(_trained(row.rendered) for row in self.fitted)


class TokenChecks:
    """Checks rows one after another with one tokenizer.

    Args:
        tokenizer: With the chat template it is trained with (see `models.load.load_tokenizer`).
        max_length: Most tokens a row may have; None for no limit.
        truncation: What becomes of a longer one: `drop` (it loses its oldest exchanges) or `windows` (it is split).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, truncation: str = "drop"
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._windows = truncation == "windows"

    def check(self, where: str, sample: Sample) -> TokenFindings:
        """Render a row, cut it to length, and say what is wrong with it."""
        faults = [Fault("special_tokens", where, what) for what in self._special_tokens(sample)][:1]
        try:
            whole = render(sample, self._tokenizer)
        except DataError as error:
            return TokenFindings([*faults, Fault("template", where, str(error))])
        except ModelError as error:
            return TokenFindings([*faults, Fault("stop_untrained", where, str(error))])
        try:
            fitted = self._fitted(sample, whole)
        except DataError as error:
            faults.append(Fault("too_long", where, str(error)))
            fitted = []
        try:
            found = {
                "template": _words_dropped(sample["messages"], whole.text),
                "unknown_text": self._unknown_text(whole),
                "tools_hidden": self._tools_hidden(sample),
                "stop_untrained": self._stop_untrained(sample["messages"], whole),
                "tokens_differ": self._tokens_differ(sample, whole) or self._cut_differs(sample, fitted),
                "masked": _masked(whole, fitted),
                "shortened": _shortened(whole, fitted),
                "split": f"{len(fitted)} windows of {len(whole.input_ids)} tokens" if len(fitted) > 1 else None,
            }
        except REFUSALS as error:
            found = {"template": f"the chat template refuses a prompt of the row ({error})"}
        faults += [Fault(kind, where, what) for kind, what in found.items() if what]
        return TokenFindings(faults, fitted)

    def _fitted(self, sample: Sample, whole: Rendered) -> list[Truncated]:
        if self._max_length is None or len(whole.input_ids) <= self._max_length:
            return [Truncated(whole, 0, messages=sample["messages"])]
        if self._windows:
            return windows(sample, self._tokenizer, self._max_length, whole)
        return [truncate(sample, self._tokenizer, self._max_length, whole)]

    def _special_tokens(self, sample: Sample) -> Iterator[str]:
        """Where a text holds a control token; one pass over the row, a second look only where there is one."""
        texts = {f"message {index}": message for index, message in enumerate(sample["messages"])}
        row: dict[str, Any] = {**texts, "tools": sample.get("tools") or []}
        if not self._special_in(row):
            return
        for place, value in row.items():
            if tokens := self._special_in(value):
                yield f"{place}: holds {', '.join(tokens)}, which the tokenizer takes for a control token"

    def _special_in(self, value: object) -> list[str]:
        return special_tokens_in(json.dumps(value, ensure_ascii=False), self._tokenizer)

    def _tools_hidden(self, sample: Sample) -> str | None:
        """Names of tools and parameters that the first prompt does not show, beside those that a message says."""
        tools, messages = sample.get("tools"), sample["messages"]
        if not tools:
            return None
        first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
        prompt = str(self._applied(messages[:first], sample, add_generation_prompt=True, tokenize=False))
        said = "\n".join(message["content"] for message in messages[:first])
        hidden = []
        for tool in tools:
            function = tool["function"]
            properties = (function.get("parameters") or {}).get("properties") or {}
            names = [function["name"], *(f"{function['name']}.{name}" for name in properties)]
            shown = [_stands_in(name, prompt, said) for name in (function["name"], *properties)]
            hidden += [name for name, stands in zip(names, shown, strict=True) if not stands]
        return f"the prompt does not show {', '.join(hidden[:8])}" if hidden else None

    def _unknown_text(self, whole: Rendered) -> str | None:
        """Trained text that the tokenizer has no tokens for."""
        unknown = self._tokenizer.unk_token_id
        lost = [span for span in whole.turns if unknown is not None and unknown in whole.labels[span[0] : span[1] - 1]]
        if not lost:  # the last token of a turn is its stop token, which in GPT-2 is the unknown token as well
            return None
        said = self._tokenizer.decode(whole.labels[slice(*lost[0])])
        return f"{len(lost)} of {len(whole.turns)} turns hold {self._tokenizer.unk_token}, the first is {said!r:.80}"

    def _stop_untrained(self, messages: Sequence[Message], whole: Rendered) -> str | None:
        assistants = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for index, (start, end) in zip(assistants, whole.turns, strict=True):
            if not messages[index].get("weight", 1):
                continue
            if start == end or not is_stop(whole.input_ids[end - 1], self._tokenizer):
                return f"message {index}: does not end in a stop token"
            if whole.labels[end - 1] == IGNORED:
                return f"message {index}: its stop token carries no loss"
        return None

    def _tokens_differ(self, sample: Sample, whole: Rendered) -> str | None:
        """The first place where a server would make other tokens of the row than training does.

        All prompts of a row with many turns would take time that grows with its square, so of these the first and the
        last few are asked for; what lies between is in the history of the last ones.
        """
        messages = sample["messages"]
        assistants = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [(index, start) for index, (start, _) in zip(assistants, whole.turns, strict=True)]
        if len(turns) > 2 * _PROMPTS:
            turns = turns[:_PROMPTS] + turns[-_PROMPTS:]
        prompts = [messages[:index] for index, _ in turns]
        served: list[list[int]] = self._applied(prompts, sample, add_generation_prompt=True, tokenize=True)
        for (index, start), prompt in zip(turns, served, strict=True):
            if prompt != whole.input_ids[:start]:
                what = self._difference(whole.input_ids[:start], prompt)
                return f"the prompt before message {index} is trained as {what}"
        conversation = self._applied(messages, sample, add_generation_prompt=False, tokenize=True)
        if conversation != whole.input_ids:
            return f"the conversation is trained as {self._difference(whole.input_ids, conversation)}"
        return None

    def _cut_differs(self, sample: Sample, fitted: Sequence[Truncated]) -> str | None:
        """The same for what is left of a row that was too long."""
        for row in fitted:
            left: Sample = {**sample, "messages": list(row.messages)}
            if row.dropped_messages and (differs := self._tokens_differ(left, row.rendered)):
                return f"once it is shortened to fit, {differs}"
        return None

    def _applied(self, messages: object, sample: Sample, **options: Any) -> Any:
        """What the tokenizer makes of a conversation, or of several, as transformers and vLLM call it to serve."""
        tools = sample.get("tools") or None
        return self._tokenizer.apply_chat_template(messages, tools=tools, return_dict=False, **options)  # type: ignore[arg-type]

    def _difference(self, ours: list[int], served: list[int]) -> str:
        at = next((i for i, pair in enumerate(zip(ours, served, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(ours), len(served)) if at is None else at
        shown = [repr(self._tokenizer.decode(ids[at : at + 4])) for ids in (ours, served)]
        return f"{len(ours)} tokens and served as {len(served)}; the first that differ: {shown[0]}, {shown[1]}"


def _trained(rendered: Rendered) -> int:
    return sum(label != IGNORED for label in rendered.labels)


def _masked(whole: Rendered, fitted: Sequence[Truncated]) -> str | None:
    if len(fitted) != 1 or _trained(fitted[0].rendered) or not _trained(whole):
        return None
    return f"all trained turns are among the {fitted[0].dropped_exchanges} exchanges that are dropped to fit"


def _shortened(whole: Rendered, fitted: Sequence[Truncated]) -> str | None:
    if len(fitted) != 1 or not fitted[0].dropped_messages:
        return None
    [row] = fitted
    exchanges = f"{row.dropped_exchanges} of {len(whole.turns)} exchanges"
    tokens = f"{row.dropped_tokens} of {len(whole.input_ids)} tokens"
    return f"{exchanges} and {tokens} are dropped to fit ({row.trained_tokens_lost} of them were to be trained)"


def _words_dropped(messages: Sequence[Message], text: str) -> str | None:
    """The first message of system, user or tool that the conversation does not show; `layout` sees to the rest."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" and not any(written in text for written in written_as(message["content"])):
            return f"message {index}: the chat template drops or rewrites the words of the {message['role']}"
    return None


def _stands_in(name: str, prompt: str, said: str) -> bool:
    """Whether a prompt shows a name more often than the messages in it say it."""
    for written in written_as(name):
        pattern = re.compile(rf"(?<!\w){re.escape(written)}(?!\w)")
        if len(pattern.findall(prompt)) > len(pattern.findall(said)):
            return True
    return False
