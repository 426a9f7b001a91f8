from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.tiny import new_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.preview import Legend, RowPreview, preview_row, visible
from sage.libs.finetune.agent.reporting.preview_page import preview_page
from sage.libs.finetune.agent.tokenization.render import render

SAMPLE: Any = {
    "messages": [
        {"role": "user", "content": "Tea 💡?"},
        {"role": "assistant", "content": "Find it.", "weight": 0.5},
        {"role": "user", "content": "<script>alert(1)</script>"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "12"},
    ]
}


@pytest.fixture
def row() -> RowPreview:
    return preview_row("a.jsonl:7", SAMPLE, tiny_tokenizer(), 2048)


def drawn(*things: Any, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=120, **options).print(*things, sep="\n")
    return out.getvalue()


def test_the_headline_counts_what_training_would_count(row: RowPreview) -> None:
    rendered = render(SAMPLE, tiny_tokenizer())
    trained = sum(label != -100 for label in rendered.labels)
    expected = f"a.jsonl:7: {len(rendered.input_ids)} tokens, {trained} trained in 2 of 3 turns; nothing dropped"
    assert row.headline == expected


def test_what_was_dropped_is_told() -> None:
    whole = len(render(SAMPLE, tiny_tokenizer()).input_ids)
    row = preview_row("a.jsonl:7", SAMPLE, tiny_tokenizer(), whole - 1)
    lost = row.fitted.trained_tokens_lost
    assert lost > 0
    assert row.headline.endswith(
        f"in 1 of 2 turns; dropped to fit {whole - 1}: 1 exchange (1 message, {row.fitted.dropped_tokens} tokens, "
        f"{lost} of them trained)"
    )


def test_without_colours_trained_turns_stand_in_brackets(row: RowPreview) -> None:
    text = drawn(row)
    words = text.replace("¦", "")
    assert "⟦×0.5 Find it.<|im_end|>⟧↵" in words
    assert "⟨×0 wrong<|im_end|>⟩↵" in words
    assert "⟦12<|im_end|>⟧↵" in words
    assert text.count("⟦") == text.count("⟧") == 2
    assert text.count("¦") == len(row.pieces) - 1 - 2 * len(row.fitted.rendered.turns)  # a bracket is a border too
    assert "Tea 💡?" in words and "\x1b" not in text
    assert "⟦trained⟧" in drawn(Legend())


def test_taken_apart_again_the_marked_text_is_the_rendered_text(row: RowPreview) -> None:
    marked = "".join(drawn(row).splitlines()[1:])
    for mark in ("⟦×0.5 ", "⟨×0 ", "⟦", "⟧", "⟩", "¦"):
        marked = marked.replace(mark, "")
    assert marked.replace("↵", "\n") == row.fitted.rendered.text


def test_with_colours_trained_tokens_have_another_ground(row: RowPreview) -> None:
    text = drawn(row, force_terminal=True, color_system="truecolor", no_color=False)
    assert "\x1b[1;30;4" in text and ("\x1b[30;42m" in text or "\x1b[30;102m" in text)
    assert "⟦" not in text and "¦" not in text
    assert "\x1b[30;42mtrai" in drawn(Legend(), force_terminal=True, color_system="truecolor", no_color=False)


def test_no_color_is_honoured(row: RowPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(row, force_terminal=True, color_system="truecolor")
    assert "⟦" in text and "[30;42m" not in text


def test_the_dict_has_one_entry_a_token(row: RowPreview) -> None:
    found = json.loads(json.dumps(row.to_dict()))
    rendered = render(SAMPLE, tiny_tokenizer())
    assert (found["input_ids"], found["labels"], found["weights"]) == (
        rendered.input_ids,
        rendered.labels,
        rendered.weights,
    )
    assert len(found["tokens"]) == len(found["input_ids"])
    assert "".join(found["tokens"]) == rendered.text == found["text"]
    assert (found["where"], found["turns"]) == ("a.jsonl:7", [list(turn) for turn in rendered.turns])


@given(content=st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("💡é\ufffd\u0301ก界"), max_size=20))
@settings(max_examples=100, deadline=None)
def test_characters_survive_that_are_split_over_tokens(content: str) -> None:
    sample: Any = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": content}]}
    row = preview_row("a:1", sample, tiny_tokenizer(), 4096)
    assert [token for piece in row.pieces for token in piece.ids] == row.fitted.rendered.input_ids
    assert "".join(piece.text for piece in row.pieces) == row.fitted.rendered.text


def test_a_shared_character_is_shown_once_with_all_its_ids(row: RowPreview) -> None:
    [bulb] = [piece for piece in row.pieces if "💡" in piece.text]
    assert len(bulb.ids) > 1
    assert tiny_tokenizer().decode(bulb.ids) == bulb.text


def test_blanks_survive_that_a_tokenizer_drops_at_the_start_of_a_text() -> None:
    """SentencePiece decodes "▁tea" alone to "tea"."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "</s>", "[/INST]"], show_progress=False)
    backend.train_from_iterator(["[INST] What does the tea cost? [/INST]The tea costs 12."] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '</s>' }}"
        "{% endfor %}"
    )
    messages: Any = [
        {"role": "user", "content": "What does the tea cost?"},
        {"role": "assistant", "content": "The tea costs 12."},
    ]
    row = preview_row("a:1", {"messages": messages}, tokenizer, 2048)
    shown = "".join(piece.text for piece in row.pieces)
    assert shown == tokenizer.decode(row.fitted.rendered.input_ids)
    assert "does the tea cost" in shown


def test_a_terminal_is_sent_no_control_characters() -> None:
    """An observation with ANSI codes would clear the screen or hide what is trained."""
    nasty = "\x1b[2J\r\x07\x9b\u202ereversed\u2066\u2028\x00"
    sample: Any = {"messages": [{"role": "user", "content": nasty}, {"role": "assistant", "content": nasty}]}
    row = preview_row("a:1", sample, tiny_tokenizer(), 2048)
    for text in (drawn(row), preview_page("a", [], [row])):
        assert not set(nasty) & set(text) - set("[2Jreversed")
    assert visible("a\r\nb") == "a\\r↵\nb"


def test_a_row_that_cannot_be_rendered_names_its_place() -> None:
    tokenizer = new_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError, match=r"^a.jsonl:7: message 0 .*refuses it \(no\)"):
        preview_row("a.jsonl:7", SAMPLE, tokenizer, 2048)
    with pytest.raises(DataError, match=r"^a.jsonl:7: a row needs \d+ tokens .* 16 are allowed"):
        preview_row("a.jsonl:7", SAMPLE, tiny_tokenizer(), 16)


class Page(HTMLParser):
    """Reads a page back: the text of its rows, the tags, the attributes that would load something."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.classes: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "srcset", "action") or name[:2] == "on"]
        self.classes.append(dict(attrs).get("class", ""))
        if self.classes[-1] == "row":
            self.rows.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and "div" in self.open:
            self.rows[-1] += data


def test_the_page_holds_the_rows_and_nothing_that_runs_or_loads(row: RowPreview) -> None:
    text = preview_page("Preview of <b>a.jsonl</b>", ["model: <m>"], [row, row])
    page = Page()
    page.feed(text)
    assert page.open == [] and page.loads == []
    assert not {"script", "link", "img", "iframe", "b", "m"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert len(page.rows) == 2
    shown = page.rows[0].replace("×0.5 ", "").replace("×0 ", "").replace("↵", "")
    assert shown == row.fitted.rendered.text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_a_token_of_the_page_tells_its_id_and_weight(row: RowPreview) -> None:
    text = preview_page("a", [], [row])
    stop = tiny_tokenizer().eos_token_id
    assert f'data-i="token {stop} · weight 0.5 · &#x27;&lt;|im_end|&gt;&#x27;"' in text
    page = Page()
    page.feed(text)
    trained = [names for names in page.classes if "t" in names.split() and "y" in names.split()]
    assert len(trained) == sum(piece.weight > 0 for piece in row.pieces) + 2  # and two in the legend
    assert any("z" in names.split() for names in page.classes)
