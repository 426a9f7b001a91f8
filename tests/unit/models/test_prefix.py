import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import tiny_model

from sage.libs.finetune.agent.models.batches import BatchForm, rows_loss
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.models.prefix import MIN_SHARED, _forest, pack, segment_attention_in

IGNORED = -100


def make_rows(seed=0, weighted=True):
    """Families of rows, nested prefixes, a twin, a row that is another one's beginning, and one on its own."""
    draw = random.Random(seed)
    tokens = lambda n: [draw.randrange(3, 300) for _ in range(n)]  # noqa: E731
    system, other = tokens(40), tokens(25)
    task = tokens(30)
    ids = [system + tokens(n) for n in (5, 33, 17)]
    ids += [system + task + tokens(n) for n in (9, 21)]
    ids += [other + tokens(12), other + tokens(1), tokens(50), system + task]
    ids.append(list(ids[3]))
    rows = []
    for one in ids:
        trained = [draw.random() < 0.4 for _ in one]
        trained[-1] = True
        row = {"input_ids": one, "labels": [t if yes else IGNORED for t, yes in zip(one, trained, strict=True)]}
        if weighted and draw.random() < 0.5:
            row["weights"] = [draw.choice([0.25, 1.0, 2.0]) if yes else 0.0 for yes in trained]
        rows.append(row)
    return rows


def plain_loss(model, rows):
    """Each row by itself, by the model's own attention and torch's cross entropy."""
    total, count = 0.0, 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
        labels = torch.tensor(row["labels"][1:])
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
        kept = labels != IGNORED
        weights = torch.tensor(row["weights"][1:]) if "weights" in row else torch.ones(len(labels))
        total, count = total + (nll * weights)[kept].sum(), count + int(kept.sum())
    return total / count


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def adapted(kind, dora):
    model = tiny_model(kind=kind)
    if dora is None:
        return model.train()
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", use_dora=dora)
    model = get_peft_model(model, config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, where A would have no gradient
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("dora", [None, False, True], ids=["full", "lora", "dora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_every_gradient_are_the_plain_ones(kind, dora, checkpointing):
    model, rows = adapted(kind, dora), make_rows()
    expected = plain_loss(model, rows)
    expected.backward()
    plain = gradients(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    form = BatchForm(model, pad_id=0)
    assert form.packed and form.share and not form.reason
    # Accumulated over three micro-batches, as the trainer does it.
    items = form(rows)["trained_tokens"]
    loss = torch.zeros(())
    with form.attention():
        for part in (rows[:5], rows[5:8], rows[8:]):
            share = supervised_nll(model, form(part)).sum() / items
            share.backward()
            loss += share.detach()
    assert torch.allclose(loss, expected.detach(), rtol=1e-5)
    ours = gradients(model)
    assert ours.keys() == plain.keys() and len(ours) > 5
    for name, gradient in plain.items():
        difference = (ours[name] - gradient).norm() / gradient.norm().clamp_min(1e-8)
        assert difference < 1e-5, (name, float(difference))


def test_sharing_computes_less_and_the_same():
    model, rows = tiny_model(), make_rows()
    shared, apart = pack(rows), pack(rows, share=False)
    assert apart["input_ids"].shape[1] == shared["logical_tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert shared["input_ids"].shape[1] < 0.65 * apart["input_ids"].shape[1]
    with segment_attention_in(model):
        first, second = supervised_nll(model, shared), supervised_nll(model, apart)
    assert torch.allclose(first, second, rtol=1e-5, atol=1e-6)
    assert shared["targets"].tolist() == apart["targets"].tolist()


@pytest.mark.parametrize("seed", range(30))
def test_every_row_can_be_read_back_from_its_segments(seed):
    draw = random.Random(seed)
    stems = [[draw.randrange(4) for _ in range(draw.randrange(60))] for _ in range(3)]
    ids = [draw.choice(stems) + [draw.randrange(4) for _ in range(draw.randrange(1, 40))] for _ in range(12)]
    segments, tokens, places = _forest(ids)
    assert [[tokens[place] for place in row] for row in places] == ids
    assert [s.start for s in segments] + [len(tokens)] == [0] + [s.stop for s in segments]
    for row in places:  # a row is its last segment with the ancestors, end to end
        last = next(s for s in segments if s.start <= row[-1] < s.stop)
        chain = [segments[n] for n in last.ancestors] + [last]
        assert [place for s in chain for place in range(s.start, s.stop)] == row
        assert [s.position for s in chain] == [row.index(s.start) for s in chain]


def test_short_beginnings_are_not_shared():
    same = list(range(10, 10 + MIN_SHARED - 1))
    rows = [{"input_ids": [*same, n], "labels": [IGNORED] * len(same) + [n]} for n in (1, 2)]
    assert pack(rows)["input_ids"].shape[1] == 2 * MIN_SHARED


def test_long_rows_take_the_library_kernel_and_agree(monkeypatch):
    model, rows = tiny_model(), make_rows()
    blocked = rows_loss(model, rows, 0, 16)
    monkeypatch.setattr("sage.libs.finetune.agent.models.prefix._LARGEST_BLOCKED", 8)
    assert rows_loss(model, rows, 0, 16) == pytest.approx(blocked, rel=1e-6)
    monkeypatch.setattr("sage.libs.finetune.agent.models.prefix._LARGEST_BLOCKED", 1024)
    monkeypatch.setattr("sage.libs.finetune.agent.models.prefix._BLOCK", 7)
    assert rows_loss(model, rows, 0, 16) == pytest.approx(blocked, rel=1e-6)


def test_a_batch_without_layout_is_refused_rather_than_mixed_up():
    model = tiny_model()
    with segment_attention_in(model), pytest.raises(ValueError, match="packed"):
        model(input_ids=torch.tensor([[1, 2, 3]]))
    model(input_ids=torch.tensor([[1, 2, 3]]))  # outside, all is as before


def test_dropout_in_adapters_is_drawn_for_each_row():
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.1)
    form = BatchForm(get_peft_model(tiny_model(), config), pad_id=0)
    assert form.packed and not form.share and "lora_dropout" in form.reason


def test_models_with_sliding_windows_are_padded_and_say_so():
    model = tiny_model(kind="qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    form = BatchForm(model, pad_id=0)
    assert not form.packed and "sliding" in form.reason
    rows = make_rows()
    model.config.layer_types = ["full_attention"] * 2
    with form.attention():
        padded = supervised_nll(model, form(rows))
    with segment_attention_in(model):
        assert torch.allclose(padded, supervised_nll(model, pack(rows)), rtol=1e-5, atol=1e-6)


def test_a_batch_without_rows_has_zero_gradients():
    model = adapted("llama", False)
    form = BatchForm(model, pad_id=0)
    with form.attention():
        supervised_nll(model, form([])).sum().backward()
    assert all(float(gradient.abs().sum()) == 0 for gradient in gradients(model).values())
