"""The model card's command lines, each read back as a shell would and held against the flags servers know."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import new_tokenizer, tiny_model, tiny_tokenizer

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.tokenization.layout import own_template
from sage.libs.finetune.agent.tokenization.template import TemplateChoice
from sage.libs.finetune.agent.training.card import model_card
from sage.libs.finetune.agent.training.serving import serve_gguf, serve_model, tool_parser, unservable

FLAG, VALUE = 0, 1
# vLLM: docs.vllm.ai, "CLI Reference: serve" (vllm/entrypoints/openai/cli_args.py, vllm/engine/arg_utils.py), 0.26.
# transformers: `transformers serve --help`, 5.23. llama.cpp: tools/server/README.md and docs/function-calling.md.
KNOWN_FLAGS = {
    ("vllm", "serve"): {
        "--tokenizer": VALUE, "--enable-lora": FLAG, "--max-lora-rank": VALUE, "--lora-modules": VALUE,
        "--chat-template": VALUE, "--enable-auto-tool-choice": FLAG, "--tool-call-parser": VALUE,
        "--reasoning-parser": VALUE,
    },
    ("transformers", "serve"): {},
    ("llama-server",): {"-m": VALUE, "--jinja": FLAG},
    ("sage-finetune", "export"): {"--merge": FLAG, "--gguf": FLAG},
}  # fmt: skip
# "Tool Calling" and "Reasoning Outputs" in vLLM's documentation.
TOOL_PARSERS = {"hermes", "llama3_json", "mistral", "qwen3_xml", "glm45"}
REASONING_PARSERS = {"qwen3"}
RANKS = {8, 16, 32, 64, 128, 256, 320, 512}  # MaxLoRARanks in vllm/config/lora.py


def lines_of(text: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL)


def parsed(line: str) -> tuple[tuple[str, ...], list[str], dict[str, Any]]:
    """Program, operands and flags of a command line; an unknown flag or a missing value is an error."""
    words = shlex.split(line)
    program = next(known for known in KNOWN_FLAGS if tuple(words[: len(known)]) == known)
    rest, operands, flags = words[len(program) :], [], {}
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            assert word not in flags
            flags[word] = rest.pop(0) if KNOWN_FLAGS[program][word] is VALUE else True
        else:
            operands.append(word)
    if program == ("vllm", "serve"):
        assert len(operands) == 1
        assert flags.get("--tool-call-parser", "hermes") in TOOL_PARSERS
        assert flags.get("--reasoning-parser", "qwen3") in REASONING_PARSERS
        assert int(flags.get("--max-lora-rank", 16)) in RANKS
        assert ("--tool-call-parser" in flags) == ("--enable-auto-tool-choice" in flags)
    return program, operands, flags


def loaded(tool_format: str = "compact", location: str = "Qwen/Qwen2.5-1.5B-Instruct") -> LoadedModel:
    tokenizer = tiny_tokenizer() if tool_format == "compact" else new_tokenizer()
    if tool_format == "json":
        tokenizer.chat_template = own_template("json")
    choice = TemplateChoice("chatml_tools", tool_format, "for the test")  # type: ignore[arg-type]
    return LoadedModel(tiny_model(), tokenizer, choice, location)


def card(folder: Path, adapter: dict[str, Any] | None = None, model: LoadedModel | None = None, **settings: Any) -> str:
    if adapter is not None:
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter/adapter_config.json").write_text(json.dumps({"r": 16, "bias": "none", **adapter}))
    config = AgentSFTConfig(base_model="m", train_data="d.jsonl", **settings)
    return model_card(folder, config, model or loaded(), ["12 rows"], None)


def commands(text: str) -> list[tuple[tuple[str, ...], list[str], dict[str, Any]]]:
    return [parsed(line) for line in lines_of(text)]


@pytest.mark.parametrize(
    ("adapter", "rank"),
    [({"r": 4}, 8), ({"r": 16}, 16), ({"r": 24}, 32), ({"r": 8, "rank_pattern": {"q_proj": 300}}, 320)],
)
def test_a_lora_adapter(tmp_path: Path, adapter: dict[str, Any], rank: int) -> None:
    (_, [base], flags), merge, gguf = commands(card(tmp_path, adapter))
    assert base == "Qwen/Qwen2.5-1.5B-Instruct"
    assert flags == {
        "--tokenizer": str(tmp_path / "adapter"),
        "--enable-lora": True,
        "--max-lora-rank": str(rank),
        "--lora-modules": f"agent={tmp_path / 'adapter'}",
        "--chat-template": str(tmp_path / "chat_template.jinja"),
        "--enable-auto-tool-choice": True,
        "--tool-call-parser": "llama3_json",
    }
    assert merge == (("sage-finetune", "export"), [str(tmp_path)], {"--merge": True})
    assert gguf == (("sage-finetune", "export"), [str(tmp_path)], {"--gguf": True})


def test_a_base_model_in_a_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert commands(card(tmp_path, {}, loaded(location="base")))[0][1] == [str(tmp_path / "base")]


@pytest.mark.parametrize("name", ["my run's", "a=b", "a,b", "$(x)", 'say "hi"'])
def test_odd_folders_reach_the_server_as_they_are(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (_, _, flags), (_, [run], _), _ = commands(card(folder, {}))
    module = flags["--lora-modules"]
    # As vLLM reads it: `name=path`, split at "=", when there is no comma; else JSON.
    if "=" in module and "," not in module:
        label, path = module.split("=")
    else:
        label, path = (json.loads(module)[field] for field in ("name", "path"))
    assert (label, path, run) == ("agent", str(folder / "adapter"), str(folder))


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ({"use_dora": True}, "DoRA adapters"),
        ({"modules_to_save": ["lm_head"]}, "fully trained modules"),
        ({"bias": "all"}, "with a bias"),
        ({"r": 600}, "up to rank 512, and this one has 600"),
    ],
)
def test_what_vllm_does_not_load_is_merged_first(tmp_path: Path, adapter: dict[str, Any], why: str) -> None:
    text = card(tmp_path, adapter)
    assert f"vLLM loads no {why}" in text or why in text
    merge, (_, [served], flags), *_ = commands(text)
    assert merge == (("sage-finetune", "export"), [str(tmp_path)], {"--merge": True})
    assert served == str(tmp_path / "merged") and "--enable-lora" not in flags
    assert flags["--chat-template"] == str(tmp_path / "merged/chat_template.jinja")


def test_rslora_is_served_as_it_is(tmp_path: Path) -> None:
    text = card(tmp_path, {"use_rslora": True}, use_rslora=True, use_lora_plus=True)
    assert unservable(tmp_path / "adapter") is None
    assert "LoRA with rank-stabilised scaling (rsLoRA) and LoRA+" in text


def test_full_fine_tuning(tmp_path: Path) -> None:
    (program, [served], _), plain, gguf = commands(card(tmp_path, use_lora=False))
    assert (program, served) == (("vllm", "serve"), str(tmp_path / "model"))
    assert plain == (("transformers", "serve"), [str(tmp_path / "model")], {})
    assert gguf[2] == {"--gguf": True}


def test_llama_cpp(tmp_path: Path) -> None:
    [line] = lines_of("\n".join(serve_gguf(tmp_path / "a b.gguf")))
    assert parsed(line) == (("llama-server",), [], {"-m": str(tmp_path / "a b.gguf"), "--jinja": True})


def test_only_the_compact_format_is_asked_without_streaming(tmp_path: Path) -> None:
    assert "Ask without streaming" in card(tmp_path / "one", {})
    text = card(tmp_path / "two", {}, loaded("json"))
    assert "Ask without streaming" not in text and "--tool-call-parser hermes" in text


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}<|im_end|>\n{% endfor %}"  # noqa: E501
ARGUMENTS = "{{ c.function.arguments | tojson }}"


@pytest.mark.parametrize(
    ("call", "parser"),
    [
        ('<tool_call>\n{"name": "{{ c.function.name }}", "arguments": ' + ARGUMENTS + "}\n</tool_call>", "hermes"),
        ("<tool_call>\n<function={{ c.function.name }}>" + ARGUMENTS + "</function>\n</tool_call>", "qwen3_xml"),
        ("<tool_call>{{ c.function.name }}\n<arg_key>a</arg_key>" + ARGUMENTS + "</tool_call>", "glm45"),
        ('[TOOL_CALLS] [{"name": "{{ c.function.name }}", "arguments": ' + ARGUMENTS + "}]", "mistral"),
        ('{"name": "{{ c.function.name }}", "parameters": ' + ARGUMENTS + "}", "llama3_json"),
        ("{{ c.function.name }} takes " + ARGUMENTS, None),
    ],
)
def test_the_parser_follows_what_the_template_writes(call: str, parser: str | None) -> None:
    tokenizer = new_tokenizer()
    tokenizer.chat_template = TURNS.replace("CALL", call)
    assert tool_parser(tokenizer, "model") == parser
    text = "\n".join(serve_model("m", tokenizer, "model", "llama"))
    assert ("has for this model's family" in text) == (parser is None)
    [vllm, _] = commands(text)
    assert vllm[2].get("--tool-call-parser") == parser


@pytest.mark.parametrize(("model_type", "parser"), [("qwen3", "qwen3"), ("qwen2", None)])
def test_a_template_that_thinks(model_type: str, parser: str | None) -> None:
    tokenizer = new_tokenizer()
    call = '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": ' + ARGUMENTS + "}\n</tool_call>"
    tokenizer.chat_template = TURNS.replace("CALL", call) + "{# <think> #}"
    text = "\n".join(serve_model("m", tokenizer, "model", model_type))
    assert commands(text)[0][2].get("--reasoning-parser") == parser
    assert ("If it thinks before it answers" in text) == (parser is None)
