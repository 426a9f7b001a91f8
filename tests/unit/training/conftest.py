import json
from pathlib import Path

import pytest
from tests.tiny import save_tiny

from sage.libs.finetune.agent import AgentSFTConfig

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        },
    }
]


def conversation(word: str, answer: str) -> dict:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": {"q": word}}}
    return {
        "messages": [
            {"role": "user", "content": f"Find {word}."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "name": "find", "content": f"{word}={answer}"},
            {"role": "assistant", "content": answer},
        ],
        "tools": TOOLS,
    }


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


@pytest.fixture
def rows_file(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    words = ["desk", "lamp", "chair", "sofa", "table", "shelf", "clock", "stool"]
    rows = [conversation(word, str(index)) for index, word in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_config(tiny_folder, rows_file, tmp_path):
    def make(name: str = "run", **settings) -> AgentSFTConfig:
        defaults = {
            "base_model": str(tiny_folder), "train_data": str(rows_file), "output_dir": tmp_path / name,
            "batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "max_steps": 6,
            "max_seq_length": 512, "max_new_tokens": 16, "dtype": "float32", "lora_r": 4, "lora_alpha": 8,
        }  # fmt: skip
        return AgentSFTConfig(**{**defaults, **settings})

    return make
