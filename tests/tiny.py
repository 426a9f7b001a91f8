"""A tokenizer and language models small enough to be made in a test."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LINES = [
    "system user assistant tool name arguments Tools: Call a tool with one JSON line",
    '{"name": "find", "arguments": {"query": "tea", "limit": 3}}',
    '{"name": "add", "arguments": {"a": 1, "b": 2}}',
    "The answer is that the price of the tea is 12 and the order was sent to the customer.",
    "<tool_call> </tool_call> <tool_response> </tool_response> <tools> </tools>",
]


@lru_cache(maxsize=1)
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES * 4, trainer)
    return str(tokenizer.to_str())


def new_tokenizer(without: tuple[str, ...] = (), **options: Any) -> Any:
    """A fresh tokenizer without a chat template, for tests that change it; `without` are tokens it shall not know."""
    backend = json.loads(_trained())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] not in without]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **options},
    )


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Any:
    """The shared one, with our compact template: eos `<|im_end|>`, pad `<|endoftext|>`. Do not change it."""
    from sage.libs.finetune.agent.tokenization.template import prepare_template

    tokenizer = new_tokenizer()
    prepare_template(tokenizer, "compact", small_model=True)
    return tokenizer


def tiny_model(tokenizer: Any = None, kind: str = "llama", seed: int = 0) -> Any:
    """A random causal language model in fp32: 2 layers of width 64, 4 heads, 2 key-value heads, tied embeddings."""
    tokenizer = tokenizer or tiny_tokenizer()
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[kind]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).float().eval()


def save_tiny(folder: Path | str, kind: str = "llama", seed: int = 0, tokenizer: Any = None) -> Path:
    """An ordinary model folder (config, safetensors, tokenizer with its template)."""
    tokenizer = tokenizer or tiny_tokenizer()
    tiny_model(tokenizer, kind, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
