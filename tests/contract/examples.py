"""The examples of the API reference, line by line as they stand there: they are the specification, not our style."""

from __future__ import annotations

CONFIG = """
config = AgentSFTConfig(
    base_model="Qwen/Qwen2.5-1.5B-Instruct",
    train_data="agent_sft:train",
    num_epochs=2,
    use_coreset_selection=True,
    coreset_strategy="hybrid",
    use_dora=True,
)
"""

TRAINER = """
config = AgentSFTConfig(
    base_model="Qwen/Qwen2.5-1.5B-Instruct",
    train_data="agent_sft:train",
)
trainer = AgentSFTTrainer(config)

# Train
result = trainer.train()
print(f"Final loss: {result.final_loss}")

# Evaluate
eval_result = trainer.evaluate("agent_sft:test")
print(f"Accuracy: {eval_result.accuracy}")

# Save
trainer.save_model("./my_agent_model")
"""

COLLECTOR = """
config = CollectorConfig(max_steps=10, require_success=True)
collector = TrajectoryCollector(agent=my_agent, config=config)

# Collect trajectories
trajectories = collector.collect(task_list)
print(f"Collected {len(trajectories)} trajectories")
"""

FILTER = """
filter = TrajectoryFilter(min_reward=0.5, require_success=True)

# Filter trajectories
good_trajectories = filter.filter(all_trajectories)

# Get statistics
stats = filter.get_stats(all_trajectories)
print(f"Kept {stats['kept']} / {stats['total']} trajectories")
"""

CONVERTER = """
config = SFTConversionConfig(format="chatml", include_observation=True)
converter = TrajectoryToSFTConverter(config)

# Convert trajectories
sft_data = converter.convert(trajectories)

# Save to file
with open("sft_data.jsonl", "w") as f:
    for sample in sft_data:
        f.write(json.dumps(sample) + "\\n")
"""

CONVENIENCE = """
from sage.libs.finetune.agent import collect_and_convert, load_trajectories

# One-step collection and conversion
sft_data = collect_and_convert(
    agent=my_agent,
    tasks=task_list,
    min_reward=0.5,
    require_success=True,
)

# Load trajectories from file
trajectories = load_trajectories("trajectories.jsonl")
"""
