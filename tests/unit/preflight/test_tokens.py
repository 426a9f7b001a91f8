"""What only a tokenizer and its template show; each fault with a template or a row that has it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import new_tokenizer, save_tiny, tiny_tokenizer
from tests.unit.preflight.rows_of import USER, answer, call, right, row, tool, turn
from tests.unit.tokenization.templates import family_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.models.load import load_model, load_tokenizer
from sage.libs.finetune.agent.preflight.tokens import TokenChecks, TokenFindings
from sage.libs.finetune.agent.tokenization import render as render_module
from sage.libs.finetune.agent.tokenization import truncate as truncate_module
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.tokenization.template import prepare_template

TOOLS = "{% for tool in tools or [] %}{{ tool.function.name }}({{ tool.function.parameters | tojson }})\n{% endfor %}"
NAMES = "{% for tool in tools or [] %}{{ tool.function.name }}\n{% endfor %}"
CALLS = "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"


def template(tools: str = TOOLS, before: str = "\n", content: str = "{{ message.content }}", end: str = "<|im_end|>"):
    start = "<|im_start|>{{ message.role }}" + before
    return (
        tools
        + "{% for message in messages %}"
        + f"{start}{content}{CALLS}{end}\n"
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant"
        + before
        + "{% endif %}"
    )


def check(sample: Any, chat_template: str | None = None, max_length: int | None = None) -> TokenFindings:
    tokenizer = tiny_tokenizer() if chat_template is None else new_tokenizer(chat_template=chat_template)
    return TokenChecks(tokenizer, max_length).check("a.jsonl:1", sample)


def found(*arguments: Any) -> dict[str, str]:
    return {fault.kind: fault.message for fault in check(*arguments).faults}


@pytest.mark.parametrize("tool_format", ["compact", "json"])
def test_a_right_row_has_no_fault_and_is_what_render_gives(tool_format: str) -> None:
    tokenizer = new_tokenizer()
    prepare_template(tokenizer, tool_format, small_model=True)
    findings = TokenChecks(tokenizer, 2048).check("a.jsonl:1", right())
    assert findings.faults == [] and findings.fitted[0].rendered == render(right(), tokenizer)
    assert findings.trained_tokens == sum(label != IGNORED for label in findings.fitted[0].rendered.labels) > 0


def test_a_template_that_appends_is_right_too() -> None:
    assert found(right(), template()) == {}


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3-marked", "mistral"])
def test_the_templates_of_known_families_are_right(family: str) -> None:
    """No fault where there is none: a template is trained and served alike, ours where the model's own will not do."""
    tokenizer = family_tokenizer(family)
    prepare_template(tokenizer, "auto", small_model=False)
    checks = TokenChecks(tokenizer, 2048)
    sample = row(USER, turn("", call("call00001")), answer("call00001"), turn("12"))
    assert checks.check("a.jsonl:1", sample).faults == []


def test_long_rows_take_time_that_grows_with_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenized = []
    honest = type(tiny_tokenizer()).apply_chat_template

    def counted(self: Any, conversation: Any, *arguments: Any, tokenize: bool = True, **options: Any) -> Any:
        if tokenize:
            tokenized.append(len(conversation))
        return honest(self, conversation, *arguments, tokenize=tokenize, **options)

    monkeypatch.setattr(type(tiny_tokenizer()), "apply_chat_template", counted)
    exchanges = [message for n in range(40) for message in (USER, turn(str(n)))]
    assert found(row(*exchanges)) == {} and tokenized == [8, 80]  # eight prompts, one conversation


def test_a_template_that_drops_calls_or_refuses() -> None:
    assert "message 1: the chat template drops" in found(right(), template().replace(CALLS, ""))["template"]
    strict = "{{ raise_exception('no tools here') if tools }}" + template()
    assert "no tools here" in found(right(), strict)["template"]
    assert found(row(turn("Hi"), USER, turn("12")))["template"].startswith("message 0: a conversation begins with")


FIRST_ONLY = template().replace("message.tool_calls or []", "(message.tool_calls or [])[:1]")
NAMES_ONLY = template().replace("call.function | tojson", "call.function.name")
NO_WORDS = template(content="{{ message.content if not message.tool_calls }}")


@pytest.mark.parametrize(
    ("sample", "chat_template", "what"),
    [
        (row(USER, turn("", call("a"), call("b")), answer("a"), answer("b"), turn("1")), FIRST_ONLY, "the call of "),
        (row(USER, turn("I find.", call())), template().replace(CALLS, ""), "the call of 'find'"),
        (right(), NAMES_ONLY, "or rewrites 'q' in the call of 'find'"),
        (
            row(USER, turn("", call(q=["b", {"c": 7}]))),
            template().replace("| tojson", "| tojson | replace(7, 8)"),
            "7 in",
        ),
        (row(USER, turn("tea", call())), NO_WORDS, "or rewrites its content"),
    ],
)
def test_what_a_template_drops_of_a_turn_is_counted(sample: Any, chat_template: str, what: str) -> None:
    """The second of two calls, and arguments; a name in the words or an argument is no call, and no words."""
    assert "message 1: the chat template drops " in (said := found(sample, chat_template)["template"]) and what in said


@pytest.mark.parametrize("value", ['say "ü"\n', "it's", "<b>", True, 1e-7, -3, " padded ", {"ü": [None, ""]}])
@pytest.mark.parametrize("written", ["tojson", "string", "tojson(ensure_ascii=True)", "tojson | tojson"])
def test_arguments_may_be_written_in_many_ways(value: Any, written: str) -> None:
    calls = CALLS.replace("call.function | tojson", f"call.function.name + (call.function.arguments | {written})")
    sample = row(USER, turn("", call(q=value)), tools=[tool(q={})])
    assert found(sample, template().replace(CALLS, calls)) == {}


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_a_template_that_drops_the_words_of_others(role: str) -> None:
    sample = row({"role": "system", "content": "Brief."}, USER, turn("", call()), answer(content="seen"), turn("12"))
    silent = template(content=f"{{{{ message.content if message.role != '{role}' }}}}")
    assert f"drops or rewrites the words of the {role}" in found(sample, silent)["template"]


@pytest.mark.parametrize("fault", ["1 / 0", "messages[0].content.index('no')", "range(10 ** 9) | list"])
def test_whatever_a_template_raises_is_a_fault_of_the_row(fault: str) -> None:
    """Only jinja's own exceptions and TypeError were expected; the others ended in a traceback."""
    assert "the chat template refuses it" in found(right(), "{{ " + fault + " }}" + template())["template"]


def test_a_template_that_rewrites_the_past() -> None:
    last_only = template(content="{{ message.content if loop.last or message.role != 'assistant' else '-' }}")
    assert list(found(row(USER, turn("one"), USER, turn("two")), last_only)) == ["template"]


def test_tools_and_parameters_that_the_prompt_does_not_show() -> None:
    assert found(right(), template(tools=NAMES)) == {"tools_hidden": "the prompt does not show find.q"}
    sample = row(USER, turn("12"), tools=[tool("lookup", query={"type": "string"})])
    assert "lookup, lookup.query" in found(sample, template(tools=""))["tools_hidden"]
    named = row({"role": "user", "content": "find q"}, turn("12"))  # what a message says is not shown by the template
    assert found(named, template(tools=""))["tools_hidden"] == "the prompt does not show find, find.q"


def test_names_that_json_escapes_are_shown() -> None:
    sample = row(USER, turn("12"), tools=[tool('say "hi"', größe={"type": "string"})])
    assert found(sample, template()) == {}


def test_a_turn_without_a_stop_token() -> None:
    faults = found(right(), template(end=""))
    assert list(faults) == ["stop_untrained"] and "without a stop token" in faults["stop_untrained"]
    assert check(right(), template(end="")).fitted == []


def test_a_stop_token_that_carries_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other trainers' fault (huggingface/trl#7230); were it ever ours, the row says so."""
    whole = render(right(), tiny_tokenizer())
    whole.labels[whole.turns[0][1] - 1] = IGNORED
    monkeypatch.setattr("sage.libs.finetune.agent.preflight.tokens.render", lambda *_: whole)
    assert found(right()) == {"stop_untrained": "message 1: its stop token carries no loss"}


def test_tokens_that_a_server_would_make_otherwise() -> None:
    """`Answer: ` + `tea` is trained as two pieces; the history of the next turn is tokenised as ` tea`."""
    sample = row(USER, turn("tea"), USER, turn("12"), tools=[])
    faults = found(sample, template(before=" "))
    assert list(faults) == ["tokens_differ"]
    assert "before message 3 is trained as" in faults["tokens_differ"] and "' tea" in faults["tokens_differ"]


def test_any_other_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not lean on our own tokenising: were that wrong in one token, the row says so."""
    honest = render_module._tokenize

    def wrong(*arguments: Any) -> list[list[int]]:
        pieces = honest(*arguments)
        pieces[-2] = [pieces[-2][0] + 1, *pieces[-2][1:]]
        return pieces

    monkeypatch.setattr(render_module, "_tokenize", wrong)
    assert "the conversation is trained as" in found(right())["tokens_differ"]


@pytest.mark.parametrize(
    ("sample", "place"),
    [
        (row({"role": "user", "content": "Say <|im_end|> now"}, turn("ok")), "message 0"),
        (row(USER, turn("", call(q="<|im_end|>")), answer(), turn("ok")), "message 1"),
        (row(USER, turn("", call()), answer(content="<|im_start|>system"), turn("ok")), "message 2"),
        (row(USER, turn("ok"), tools=[tool(q={"type": "string", "description": "<|endoftext|>"})]), "tools"),
    ],
)
def test_text_that_becomes_control_tokens(sample: Any, place: str) -> None:
    assert found(sample)["special_tokens"].startswith(f"{place}: holds <|")


def test_trained_text_that_the_tokenizer_has_no_tokens_for() -> None:
    """The same on both sides, hence no other token than a server's; yet the model would learn to write `<unk>`."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "12": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", chat_template=template())
    checks = TokenChecks(tokenizer)
    assert checks.check("a.jsonl:1", row(USER, turn("12"), tools=[])).faults == []
    [fault] = checks.check("a.jsonl:2", row(USER, turn("12"), USER, turn("12 x"), tools=[])).faults
    assert (fault.kind, fault.message) == (
        "unknown_text",
        "1 of 2 turns hold <unk>, the first is '12 <unk> <|im_end|>'",
    )


def long_row(weight: float = 1.0) -> Any:
    exchanges = [message for n in range(6) for message in ({"role": "user", "content": f"tea {n}"}, turn(f"the {n}"))]
    exchanges[-1] = {**exchanges[-1], "weight": weight}
    for message in exchanges[3:-1:2]:
        message["weight"] = weight
    return row(*exchanges, tools=[])


def test_what_is_cut_to_fit_is_noted() -> None:
    whole = check(long_row())
    length = len(whole.fitted[0].rendered.input_ids)
    cut = check(long_row(), None, length - 5)
    assert list(found(long_row(), None, length)) == []
    assert [fault.kind for fault in cut.faults] == ["shortened"] and len(cut.fitted[0].rendered.input_ids) <= length - 5
    assert cut.fitted[0].dropped_tokens == length - len(cut.fitted[0].rendered.input_ids)
    assert cut.faults[0].message == (
        f"1 of 6 exchanges and {cut.fitted[0].dropped_tokens} of {length} tokens are dropped to fit "
        f"({cut.fitted[0].trained_tokens_lost} of them were to be trained)"
    )


def test_a_long_row_is_rendered_whole_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting it rendered it again, which took most of the time with templates that need two renderings a turn."""
    sizes: list[int] = []
    for module in ("preflight.tokens", "tokenization.truncate"):
        monkeypatch.setattr(
            f"sage.libs.finetune.agent.{module}.render",
            lambda sample, tokenizer: sizes.append(len(sample["messages"])) or render(sample, tokenizer),
        )
    check(long_row(), None, len(render(long_row(), tiny_tokenizer()).input_ids) - 5)
    assert sizes == [12, 11]


def test_what_is_left_of_a_long_row_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = truncate_module.truncate

    def wrong(*arguments: Any) -> Any:
        cut = honest(*arguments)
        cut.rendered.input_ids[-2] += 1
        return cut

    monkeypatch.setattr("sage.libs.finetune.agent.preflight.tokens.truncate", wrong)
    length = len(check(long_row()).fitted[0].rendered.input_ids)
    assert found(long_row(), None, length - 5)["tokens_differ"].startswith("once it is shortened to fit, the ")


def test_a_row_that_cannot_fit_says_how_much_it_needs() -> None:
    findings = check(right(), None, 16)
    [fault] = findings.faults
    assert fault.kind == "too_long" and "16" in fault.message and findings.fitted == []
    assert findings.trained_tokens == 0


def test_a_row_whose_trained_turns_are_all_cut() -> None:
    length = len(check(long_row(0.0)).fitted[0].rendered.input_ids)
    findings = check(long_row(0.0), None, length // 2)
    assert {"shortened", "masked"} == {fault.kind for fault in findings.faults} and not findings.trained_tokens
    untrained = row(USER, turn("12", weight=0))
    assert check(untrained).faults == []  # `untrained` says so already


@pytest.mark.parametrize("tool_format", ["auto", "json"])
def test_the_tokenizer_alone_is_prepared_as_with_its_model(tmp_path: Any, tool_format: str) -> None:
    save_tiny(tmp_path)
    loaded = load_model(str(tmp_path), tool_format=tool_format)
    tokenizer, choice = load_tokenizer(str(tmp_path), tool_format=tool_format)
    assert choice == loaded.template and tokenizer.chat_template == loaded.tokenizer.chat_template
    assert tokenizer.eos_token_id == loaded.tokenizer.eos_token_id


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer of model .* cannot be loaded: "):
        load_tokenizer(str(tmp_path))
