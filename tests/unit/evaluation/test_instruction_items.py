import pytest

from sage.libs.finetune.agent import ConfigError
from sage.libs.finetune.agent.evaluation.instruction_items import SPLITS, instruction_items
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS


def prompts(items):
    return {item["messages"][0]["content"] for item in items}


def test_splits_share_no_prompt_and_no_instructions_on_a_topic():
    of = {split: [item for seed in (0, 1) for item in instruction_items(split, 100, seed)] for split in SPLITS}
    for split, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not prompts(of[split]) & prompts(of[other])
        asked = [{(i["metadata"]["topic"], str(i["gold"])) for i in of[name]} for name in (split, other)]
        assert not asked[0] & asked[1]


def test_a_longer_list_begins_with_a_shorter_and_repeats_nothing():
    longer = instruction_items("test", 100)
    assert instruction_items("test", 30) == longer[:30]
    assert len(prompts(longer)) == 100 == len({item["id"] for item in longer})
    assert instruction_items("test", 30, seed=1) != longer[:30]


def test_every_type_leads_equally_often():
    leads = [item["metadata"]["types"][0] for item in instruction_items("dev", 50)]
    assert sorted(leads) == sorted([*INSTRUCTIONS, *INSTRUCTIONS])


def test_arguments_stand_in_the_prompt():
    for item in instruction_items("dev", 75):
        prompt = item["messages"][0]["content"]
        for instruction in item["gold"]["instructions"]:
            for value in instruction.values():
                for part in value if isinstance(value, list) else [value]:
                    spoken = part in INSTRUCTIONS or instruction["type"] == "language:response_language"
                    assert spoken or str(part) in prompt, (prompt, instruction)


@pytest.mark.parametrize(("split", "n"), [("test_iid", 1), ("train", -1)])
def test_what_cannot_be_drawn_is_said(split, n):
    with pytest.raises(ConfigError, match=r"known: train, dev, test|must be 0 or more"):
        instruction_items(split, n)
