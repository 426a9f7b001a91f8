import random
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import tiny_model, tiny_tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM

from sage.libs.finetune.agent.models import batches
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.lora_linear import replace_forwards, restore_forwards
from sage.libs.finetune.agent.models.policy import Reference, ValueHead, policy_outputs

IGNORED = -100
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def episodes(seed=0):
    """Two tasks under one system prompt; two episodes with the same first turn, a twin, and one that is on its own."""
    draw = random.Random(seed)
    tokens = lambda n: [draw.randrange(3, 300) for _ in range(n)]  # noqa: E731
    system, task, other = tokens(40), tokens(20), tokens(24)
    first, seen = tokens(18), tokens(9)
    rows = []
    for parts in (
        [(system + task, 0), (first, 1), (seen, 0), (tokens(7), 1)],
        [(system + task, 0), (first, 1), (tokens(12), 0), (tokens(3), 1)],
        [(system + task, 0), (first, 1), (seen, 0), (tokens(1), 1), (tokens(30), 0), (tokens(5), 1)],
        [(system + other, 0), (tokens(4), 1)],
        [(tokens(17), 0), (tokens(11), 1), (tokens(6), 0)],
    ):
        ids = [token for part, _ in parts for token in part]
        labels = [token if own else IGNORED for part, own in parts for token in part]
        rows.append({"input_ids": ids, "labels": labels})
    return [*rows, rows[1]]


def model_of(kind, adapter="lora"):
    if kind == "gemma2":  # bounds its logits, has sliding windows, and is not one of the models known to be exact
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        model = Gemma2ForCausalLM(
            Gemma2Config(
                vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=32,
                final_logit_softcapping=0.5, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
            )
        ).float().eval()  # fmt: skip
    else:
        model = tiny_model(kind=kind)
    if adapter is None:
        return model
    torch.manual_seed(1)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", use_dora=adapter == "dora"
    )
    model = get_peft_model(model, config).eval()
    replace_forwards(model)
    return model


def train(model, std=0.05, seed=2):
    """Moves an adapter away from where it began."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and ("lora_B" in name or "magnitude" in name):
                weight.add_(torch.randn(weight.shape, generator=generator) * std)
    return model


def a_value_head():
    head = ValueHead(64)
    torch.manual_seed(3)
    torch.nn.init.normal_(head.map.weight)
    torch.nn.init.constant_(head.map.bias, 0.25)
    return head


def one_by_one(model, rows, head, temperature):
    """By the model's own forward, a row at a time."""
    logps, values, entropy = [], [], []
    for row in rows:
        output = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
        logs = (output.logits[0].float() / temperature).log_softmax(-1)
        for at, label in enumerate(row["labels"]):
            if label != IGNORED:
                logps.append(logs[at - 1, label])
                values.append(output.hidden_states[-1][0, at - 1] @ head.map.weight[0] + head.map.bias[0])
                entropy.append(torch.distributions.Categorical(logits=logs[at - 1]).entropy())
    return torch.stack(logps), torch.stack(values), torch.stack(entropy)


def gradients(model, head):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    found |= {f"value {name}": weight.grad.clone() for name, weight in head.named_parameters()}
    model.zero_grad(set_to_none=True)
    head.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(
    ("kind", "adapter", "form", "temperature"),
    [
        ("llama", "lora", "shared", 1.0), ("llama", "dora", "shared", 1.0), ("llama", None, "shared", 1.0),
        ("llama", "lora", "packed", 1.0), ("llama", "lora", "padded", 1.0), ("llama", "lora", "shared", 0.6),
        ("llama", None, "shared", 1.5), ("qwen2", "lora", "shared", 1.0), ("qwen2", None, "shared", 1.0),
        ("qwen2", None, "padded", 0.6), ("gemma2", "lora", "padded", 1.0), ("gemma2", "lora", "padded", 0.6),
    ],
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_the_model_run_row_by_row(kind, adapter, form, temperature, monkeypatch):
    model, head, rows = train(model_of(kind, adapter)), a_value_head(), episodes()
    if form == "padded" and kind != "gemma2":
        monkeypatch.setattr(batches, "inexact_because", lambda model: "the test says so")
    made = BatchForm(model, pad_id=0, share=form != "packed")
    assert (made.packed, made.share) == (form != "padded", form == "shared")
    expected = one_by_one(model, rows, head, temperature)
    weights = torch.randn(3, len(expected[0]), generator=torch.Generator().manual_seed(4))
    sum((w * part).sum() for w, part in zip(weights, expected, strict=True)).backward()
    plain = gradients(model, head)

    with made.attention():
        batch = made(rows)
        found = policy_outputs(model, batch, head, entropy=True, temperature=temperature)
        sum((w * part).sum() for w, part in zip(weights, found, strict=True)).backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    ours = gradients(model, head)
    assert ours.keys() == plain.keys() and len(ours) > 10
    for name, gradient in ours.items():
        largest = max(1.0, float(plain[name].abs().max()))
        torch.testing.assert_close(gradient / largest, plain[name] / largest, msg=name, **CLOSE)
    if form == "shared":
        assert batch["input_ids"].shape[1] < batch["logical_tokens"]
    with made.attention(), torch.no_grad():
        again = policy_outputs(model, batch, head, entropy=True, temperature=temperature)
    for one, other in zip(again, found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    bare = policy_outputs(model, batch) if form == "padded" else None
    assert bare is None or (bare.values is None and bare.entropy is None)


def test_a_detached_value_head_leaves_the_policy_alone():
    model, rows = train(model_of("llama")), episodes()
    head = ValueHead(64, detach=True)
    form = BatchForm(model, pad_id=0)
    with form.attention():
        values = policy_outputs(model, form(rows), head).values
    assert values.tolist() == [0.0] * len(values)
    values.sum().backward()
    assert head.map.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.parameters())


def logps_of(model, rows):
    form = BatchForm(model, pad_id=0)
    with form.attention() if form.packed else nullcontext(), torch.no_grad():
        return policy_outputs(model, form(rows)).logps


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_the_reference_of_a_fresh_adapter_is_the_model_without_it(adapter):
    model, rows = model_of("llama", adapter), episodes()
    reference = Reference(model)
    train(model)
    now = logps_of(model, rows)
    with reference.in_place():
        before = logps_of(model, rows)
    with model.disable_adapter():
        torch.testing.assert_close(before, logps_of(model, rows), **CLOSE)
    assert float((now - before).abs().max()) > 1e-2
    assert torch.equal(logps_of(model, rows), now)


@pytest.mark.parametrize("adapter", ["lora", "dora", None])
def test_the_reference_of_a_trained_model_is_that_model_and_training_goes_on_as_if_nobody_had_looked(adapter):
    rows = episodes()

    def steps(look):
        model = train(model_of("llama", adapter))
        first, reference = logps_of(model, rows), Reference(model)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-2)
        form = BatchForm(model, pad_id=0)
        for _ in range(3):
            if look:
                with reference.in_place():
                    assert torch.equal(logps_of(model, rows), first)
            with form.attention():
                optimizer.zero_grad()
                policy_outputs(model, form(rows)).logps.mean().backward()
                optimizer.step()
        if look:
            with reference.in_place():
                assert torch.equal(logps_of(model, rows), first)
        return model, logps_of(model, rows), optimizer.state_dict()["state"]

    looked, plain = steps(True), steps(False)
    assert torch.equal(looked[1], plain[1])
    for at, state in plain[2].items():
        assert all(torch.equal(value, looked[2][at][name]) for name, value in state.items())
    if adapter == "dora":  # the lengths of rows that the fast forward keeps are not those of the reference
        restore_forwards(looked[0])
        torch.testing.assert_close(logps_of(looked[0], rows), looked[1], **CLOSE)


def test_weights_come_back_when_the_reference_is_left_by_an_error():
    model = model_of("llama")
    reference = Reference(model)
    train(model)
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), reference.in_place():
        raise RuntimeError("stop")
    assert all(
        weight.data_ptr() == before[name][0] and torch.equal(weight, before[name][1])
        for name, weight in model.named_parameters()
    )


def test_a_reference_is_kept_and_read_again():
    model, rows = train(model_of("llama")), episodes()
    kept = {name: weight.clone() for name, weight in Reference(model).state_dict().items()}
    first = logps_of(model, rows)
    other = train(model_of("llama"), seed=9)
    reference = Reference(other)
    reference.load_state_dict(kept)
    with reference.in_place():
        assert torch.equal(logps_of(other, rows), first)
