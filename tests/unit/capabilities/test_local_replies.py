import pytest
from tests.tiny import new_tokenizer, save_tiny, tiny_model, tiny_tokenizer

from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer
from sage.libs.finetune.agent.capabilities.repliers import replier_of
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.tokenization.render import render_prompt

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def item(text="tea", tools=()):
    return {"id": text, "messages": [{"role": "user", "content": text}], "tools": list(tools)}


def texts(model, items=None, **settings):
    return [reply.text for reply in replier_of(model, **settings).replies(items or [item()])]


def lively_model():
    """Random weights so large that replies differ from prompt to prompt; a tiny model else repeats its last token."""
    model = tiny_model()
    for name, weights in model.named_parameters():
        if weights.dim() > 1 and "embed" not in name:
            weights.data *= 12
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    lively_model().save_pretrained(folder)
    return folder


def alone(model, tokenizer, items, max_new_tokens):
    """What `model.generate` says to one prompt at a time."""
    import torch

    found = []
    for one in items:
        ids = render_prompt(one["messages"], one["tools"] or None, tokenizer)
        out = model.generate(torch.tensor([ids]), max_new_tokens=max_new_tokens, do_sample=False)
        found.append(tokenizer.decode(out[0, len(ids) :], clean_up_tokenization_spaces=False))
    return found


def test_a_local_model_says_in_batches_what_it_says_alone(folder):
    items = [item(f"{'tea ' * (at % 4)}{at}", [TOOL] * (at % 2)) for at in range(11)]
    expected = [text.removesuffix("<|im_end|>") for text in alone(lively_model(), tiny_tokenizer(), items, 12)]
    trainer = AgentSFTTrainer(AgentSFTConfig(base_model=str(folder), train_data="-", dtype="float32"), silent)
    settings = {"max_new_tokens": 12, "batch_size": 4}
    assert len(set(expected)) > 5
    for model in (str(folder), folder, trainer, load_model(str(folder), dtype="float32")):
        assert texts(model, items, dtype="float32", **settings) == expected
    assert texts(lively_model(), items, tokenizer=tiny_tokenizer(), **settings) == expected


def test_a_tokenizer_that_is_given_is_not_changed():
    tokenizer = new_tokenizer()
    texts(tiny_model(), tokenizer=tokenizer, max_new_tokens=2)
    assert tokenizer.chat_template is None


def test_replies_that_reach_the_limit_are_marked_and_the_time_is_shared(folder):
    replier = replier_of(folder, max_new_tokens=3, dtype="float32")
    told = []
    replies = replier.replies([item(str(at)) for at in range(3)], told.append)
    assert all(reply.cut and reply.seconds > 0 for reply in replies) and told[-1] == 3
    assert replier.name == str(folder)


def test_a_prompt_that_is_too_long_or_cannot_be_shown_is_an_error_of_its_item(folder):
    replier = replier_of(folder, max_new_tokens=4, dtype="float32")
    headless = {"id": "x", "messages": [{"role": "assistant", "content": "12"}, *item()["messages"]], "tools": []}
    good, long, shown = replier.replies([item(), item("tea " * 3000), headless])
    assert good.error is None and good.text
    assert "tokens, which with max_new_tokens=4 is more than the model's 2048" in long.error
    assert shown.error.startswith("DataError: message 0")
