"""What a mix can be asked for, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.mixing.config import MixerConfig

TWO = {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_weights": {"a": -1}}, "the weight of 'a' must be at least 0, not -1"),
        ({"task_weights": {"a": 0}}, "no weight is above 0"),
        ({"task_weights": {}}, "no weight is above 0"),
        ({"task_weights": {"a": float("nan")}}, "'task_weights': expected a mapping of text to a number"),
        ({"task_weights": {"a": "many"}}, "'task_weights': expected a mapping of text to a number"),
        ({"task_weights": [1, 2]}, "'task_weights': expected a mapping of text to a number"),
        ({"strategy": "weigthed"}, "unknown strategy 'weigthed'; did you mean 'weighted'"),
        ({"max_repeats": 0.5}, "'max_repeats': must be at least 1.0"),
        ({"total_size": 0}, "'total_size': must be at least 1"),
        ({"eta": 0.2}, "'eta' and 'general_tasks' need each other"),
        ({"general_tasks": ["a"]}, "'eta' and 'general_tasks' need each other"),
        ({"strategy": "eta"}, "'strategy' eta needs eta"),
        ({"eta": 0.2, "general_tasks": ["c"]}, "'general_tasks': no task is called 'c'"),
        ({"eta": 0.2, "general_tasks": ["a", "b"]}, "'eta' gives 0.2 to agent tasks, and no agent task has a weight"),
        ({"strategy": "curriculum"}, "'stages' and strategy curriculum need each other"),
        ({"stages": [{}]}, "'stages' and strategy curriculum need each other"),
        ({"strategy": "curriculum", "stages": []}, "'stages': there is none"),
        ({"strategy": "curriculum", "stages": [{"wieghts": {}}]}, "stage 1: unknown 'wieghts'"),
        ({"strategy": "curriculum", "stages": [{"weights": {"c": 1}}]}, "stage 1: 'c' is not in task_weights"),
        ({"strategy": "curriculum", "stages": [{}, {"share": -1}]}, "stage 2: 'share': expected a number from 0"),
        ({"strategy": "curriculum", "stages": [{"weights": {"a": 0}}]}, "stage 1: no weight is above 0"),
        ({"strategy": "curriculum", "stages": [{}], "eta": 0.2, "general_tasks": ["a"]}, "cannot be combined"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MixerConfig(**{"task_weights": TWO, **settings})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_says_the_same_as_arguments(tmp_path: Any) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text("task_weights: {a: 1, b: 1.5}\ngeneral_tasks: b\neta: 0.2\nmax_repeats: 2\n")
    config = MixerConfig.from_yaml(path)
    assert config == MixerConfig({"a": 1.0, "b": 1.5}, eta=0.2, general_tasks=["b"], max_repeats=2.0)
    assert MixerConfig.from_dict(config.to_dict()) == config
