"""The cached engine against `model.generate`, one row at a time."""

from __future__ import annotations

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, GPT2Config

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models import generate, kv_cache
from sage.libs.finetune.agent.models.exactness import EXACT_MODEL_TYPES
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.kv_cache import Piece, Share, plan_shared_prefixes, prefill_batches

VOCABULARY = 128


def tiny(model_type="llama", **options):
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.4,
        "max_position_embeddings": 1024, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    }  # fmt: skip
    if model_type == "mistral":
        settings["sliding_window"] = None
    config = AutoConfig.for_model(model_type, **{**settings, **options})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()


def with_lora(model):
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def expected(model, prompts, max_new_tokens, stop_ids=()):
    """Greedy replies of transformers, one prompt at a time."""
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=list(stop_ids) or None, pad_token_id=0,
        )  # fmt: skip
        replies.append(out[0, len(prompt) :].tolist())
    return replies


def ragged(count, seed=0, shortest=1, longest=40):
    rng = random.Random(seed)
    return [tokens(rng, rng.randint(shortest, longest)) for _ in range(count)]


def tokens(rng, count):
    return [rng.randrange(3, VOCABULARY) for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Models this small only wait for their second thread, seconds per test on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama():
    model = tiny()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture
def generator(llama):
    return Generator(llama, stop_ids=[], pad_id=0)


@pytest.mark.parametrize("model_type", sorted(EXACT_MODEL_TYPES))
def test_every_exact_architecture_equals_generate(model_type):
    model, prompts = tiny(model_type), ragged(7)
    model.generation_config.eos_token_id = None
    generator = Generator(model, stop_ids=[], pad_id=0)
    assert (generator.engine, generator.reason) == ("cached", "")
    assert generator.generate(prompts, max_new_tokens=12) == expected(model, prompts, 12)


def test_lora_counts_unmerged():
    model, prompts = tiny("qwen2"), ragged(5)
    model.generation_config.eos_token_id = None
    plain = expected(model, prompts, 8)
    model = with_lora(model)
    replies = Generator(model, stop_ids=[], pad_id=0, fast=True).generate(prompts, max_new_tokens=8)
    assert replies == expected(model, prompts, 8)
    assert replies != plain


@pytest.mark.parametrize("fast", [None, False])
def test_rows_end_at_their_own_stop_token(llama, fast):
    prompts, stops = ragged(12, seed=3), list(range(3, 12))
    generator = Generator(llama, stop_ids=stops, pad_id=0, fast=fast)
    replies = generator.generate(prompts, max_new_tokens=30)
    assert replies == expected(llama, prompts, 30, stops)
    lengths = {len(reply) for reply in replies}
    assert len(lengths) > 3, "rows should end at different times, so that the batch is compacted"
    assert all(len(reply) == 30 or reply[-1] in stops for reply in replies)


def turn(history, reply, rng):
    return history + reply + tokens(rng, rng.randint(1, 20))


def test_growing_episodes_compute_only_what_is_new(llama):
    rng, stops = random.Random(1), list(range(3, 9))
    generator = Generator(llama, stop_ids=stops, pad_id=0)
    episodes = dict(enumerate(ragged(8, seed=5, shortest=30, longest=60)))
    fresh = sum(map(len, episodes.values()))
    for _ in range(3):
        before = generator.stats.computed_tokens
        replies = generator.generate([*episodes.values()], max_new_tokens=20, keys=[*episodes])
        assert replies == expected(llama, episodes.values(), 20, stops)
        assert generator.stats.computed_tokens - before == fresh
        grown = {key: turn(prompt, reply, rng) for (key, prompt), reply in zip(episodes.items(), replies, strict=True)}
        # The last token of a reply was never fed to the model.
        fresh = sum(
            len(grown[key]) - len(episodes[key]) - len(reply) + 1 for key, reply in zip(grown, replies, strict=True)
        )
        episodes = grown
    assert generator.stats.prompt_tokens > 2 * generator.stats.computed_tokens


def test_some_rows_go_on_some_are_new_and_one_was_altered(llama):
    rng, stops = random.Random(2), list(range(3, 9))
    generator = Generator(llama, stop_ids=stops, pad_id=0)
    first = dict(zip("abcdefgh", ragged(8, seed=7, shortest=20), strict=True))
    replies = dict(zip(first, generator.generate([*first.values()], max_new_tokens=20, keys=[*first]), strict=True))
    second = {key: turn(first[key], replies[key], rng) for key in "gdah"}
    second["d"][10] = 3 + (second["d"][10] + 1) % 100
    second |= {"new": tokens(rng, 30), "newer": tokens(rng, 3)}
    before = generator.stats.computed_tokens
    assert generator.generate([*second.values()], max_new_tokens=20, keys=[*second]) == expected(
        llama, second.values(), 20, stops
    )
    kept = 10 + sum(len(first[key]) + len(replies[key]) - 1 for key in "gah")
    assert generator.stats.computed_tokens - before == sum(map(len, second.values())) - kept
    third = {"b": first["b"], "h": second["h"]}
    assert generator.generate([*third.values()], max_new_tokens=5, keys=[*third]) == expected(
        llama, third.values(), 5, stops
    )


def test_a_prompt_cut_short_is_computed_from_its_last_token(generator, llama):
    prompt = ragged(1, shortest=30)[0]
    generator.generate([prompt], max_new_tokens=4, keys=["a"])
    before = generator.stats.computed_tokens
    assert generator.generate([prompt[:12]], max_new_tokens=4, keys=["a"]) == expected(llama, [prompt[:12]], 4)
    assert generator.stats.computed_tokens == before + 1


def test_forget_drops_rows(generator):
    prompts, keys = ragged(2, shortest=10), ["a", "b"]
    generator.generate(prompts, max_new_tokens=2, keys=keys)
    for dropped, computed in ((["a"], len(prompts[0]) + 1), (None, sum(map(len, prompts)))):
        generator.forget(dropped)
        before = generator.stats.computed_tokens
        generator.generate(prompts, max_new_tokens=2, keys=keys)
        assert generator.stats.computed_tokens - before == computed


def test_shared_prefixes_are_computed_once(generator, llama):
    rng = random.Random(4)
    system, tools, other = tokens(rng, 40), tokens(rng, 30), tokens(rng, 25)
    prompts = [system + tools + tokens(rng, rng.randint(1, 9)) for _ in range(5)]
    prompts += [system + other + tokens(rng, rng.randint(1, 9)) for _ in range(4)]
    prompts += [system, system + tools, [*prompts[0]], tokens(rng, 20)]
    assert generator.generate(prompts, max_new_tokens=6) == expected(llama, prompts, 6)
    once = 40 + 30 + 25 + sum(len(prompt) - 70 for prompt in prompts[:5]) + sum(len(p) - 65 for p in prompts[5:9])
    # A few rows keep a token or two of the prefix, since every row computes at least its last token.
    assert once <= generator.stats.computed_tokens <= once + 60
    assert generator.stats.prompt_tokens == sum(map(len, prompts))


def test_new_rows_take_the_prefix_of_rows_that_go_on(generator, llama):
    rng = random.Random(6)
    system = tokens(rng, 50)
    old, new = system + tokens(rng, 5), system + tokens(rng, 7)
    generator.generate([old], max_new_tokens=3, keys=["old"])
    before = generator.stats.computed_tokens
    assert generator.generate([new, old], max_new_tokens=3, keys=["new", "old"]) == expected(llama, [new, old], 3)
    assert generator.stats.computed_tokens - before == 7 + 1


@pytest.mark.parametrize("keyed", [False, True])
def test_more_prompts_than_fit_one_batch(llama, keyed):
    prompts, stops = ragged(11, seed=8), list(range(3, 9))
    generator = Generator(llama, stop_ids=stops, pad_id=0, max_batch=4)
    progress = []
    keys = range(11) if keyed else None
    replies = generator.generate(prompts, max_new_tokens=15, keys=keys, on_progress=progress.append)
    assert replies == expected(llama, prompts, 15, stops)
    assert progress == sorted(set(progress)) and progress[-1] == 11
    grown = [prompt + reply + [5, 6] for prompt, reply in zip(prompts, replies, strict=True)]
    assert generator.generate(grown[::-1], max_new_tokens=15, keys=keys and keys[::-1]) == expected(
        llama, grown[::-1], 15, stops
    )


def test_long_prompts_are_cut_into_pieces(llama, monkeypatch):
    monkeypatch.setitem(generate._PREFILL_TOKENS, "cpu", 16)
    prompts = ragged(6, longest=70)
    assert Generator(llama, stop_ids=[], pad_id=0).generate(prompts, max_new_tokens=5) == expected(llama, prompts, 5)


@pytest.mark.parametrize("fast", [True, False])
def test_the_model_is_left_as_it_was(fast):
    model = with_lora(tiny())
    base = model.get_base_model()
    model.train()
    base.lm_head.eval()
    config = base.generation_config
    generator = Generator(model, stop_ids=[2], pad_id=0, fast=fast)

    def break_off(count):
        raise KeyboardInterrupt

    prompts = ragged(3)
    with pytest.raises(KeyboardInterrupt):
        generator.generate(prompts, max_new_tokens=2, keys="abc", on_progress=break_off)
    assert (base.config._attn_implementation, model.training, base.lm_head.training) == ("sdpa", True, False)
    assert base.generation_config is config
    after = generator.generate(prompts, max_new_tokens=6, keys="abc")
    assert model.training and base.config._attn_implementation == "sdpa"
    assert after == expected(model.eval(), prompts, 6, [2])


@pytest.mark.parametrize("fast", [True, False])
def test_the_models_own_generation_config_does_not_change_greedy(fast):
    model, prompts = tiny("qwen3"), ragged(3)
    model.generation_config.eos_token_id = None
    greedy = expected(model, prompts, 12)
    model.generation_config.repetition_penalty = 5.0
    assert expected(model, prompts, 12) != greedy
    assert Generator(model, stop_ids=[], pad_id=0, fast=fast).generate(prompts, max_new_tokens=12) == greedy


def test_unsupported_models_take_the_plain_engine():
    windowed = tiny("mistral", sliding_window=8)
    generator = Generator(windowed, stop_ids=[], pad_id=0)
    assert generator.engine == "plain" and "sliding-window" in generator.reason
    dynamic = tiny(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "rope type 'dynamic'" in Generator(dynamic, stop_ids=[], pad_id=0).reason
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="fast=True, but model type 'gpt2'"):
        Generator(gpt2, stop_ids=[], pad_id=0, fast=True)
    prompts = ragged(4)
    generator = Generator(gpt2.eval(), stop_ids=[5], pad_id=0, max_batch=3)
    assert generator.generate(prompts, max_new_tokens=5) == expected(gpt2, prompts, 5, [5])
    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1)
    )  # fmt: skip
    with pytest.raises(ModelError, match="encoder-decoder"):
        Generator(bart, stop_ids=[], pad_id=0)


def test_what_cannot_be_generated_is_refused(generator):
    assert generator.generate([], max_new_tokens=3) == []
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        generator.generate([[1]], max_new_tokens=0)
    with pytest.raises(DataError, match=r"prompts\[1\] is empty"):
        generator.generate([[1], []], max_new_tokens=1)
    with pytest.raises(DataError, match="expected 2 distinct names"):
        generator.generate([[1], [2]], max_new_tokens=1, keys=["a", "a"])


def test_folding_the_head_group_into_the_query_is_exact():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 5, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [2, 3, 3, 3, 3]])
    visible = torch.arange(9) <= positions[:, None, :, None]
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    reference = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    mask = kv_cache.row_mask(positions, 9, 2)
    out, _ = kv_cache.grouped_attention(torch.nn.Identity(), query, key, value, mask)
    torch.testing.assert_close(out, reference.transpose(1, 2))


def test_plan_is_a_radix_tree():
    a, b, c = [7] * 20, [8] * 20, [9] * 20
    prompts = [a + b + [1], a + c + [1], a + b + [2], a + c + [2], a, [1]]
    assert plan_shared_prefixes(prompts, [0] * 6) == [
        [Share(Piece(4, 0, 19), [0, 2, 1, 3])],
        [Share(Piece(1, 19, 40), [3]), Share(Piece(0, 19, 40), [2])],
    ]
    assert plan_shared_prefixes(prompts[:1], [0]) == []
    assert plan_shared_prefixes([[*a, 1], [*a, 2]], [20, 0]) == [[Share(Piece(0, 20, 20), [1])]]
    assert plan_shared_prefixes([[*a[:10], 1], [*a[:10], 2]], [0, 0]) == []
    nested = [list(range(n)) for n in range(1, 1200)]
    assert plan_shared_prefixes(nested, [0] * len(nested))


def test_prefill_batches_keep_the_budget_and_every_token():
    rng = random.Random(0)
    pieces = [Piece(row, start := rng.randrange(9), start + rng.randrange(40)) for row in range(30)]
    batches = list(prefill_batches(pieces, 25))
    assert all(len(batch) * max(stop - start for _, start, stop in batch) <= 25 for batch in batches)
    seen = [(row, at) for batch in batches for row, start, stop in batch for at in range(start, stop)]
    assert sorted(seen) == [(row, at) for row, start, stop in pieces for at in range(start, stop)]
