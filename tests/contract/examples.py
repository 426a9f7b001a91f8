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

SELECTOR = """
selector = CoresetSelector(
    strategy="hybrid",
    target_size=1000,
    loss_ratio=0.6,
)

# Select best samples
selected = selector.select(all_samples, model=my_model)
print(f"Selected {len(selected)} samples")

# Just compute losses
losses = selector.compute_losses(all_samples, model=my_model)
"""

LEARNER = """
learner = OnlineContinualLearner(
    buffer_size=2048,
    replay_ratio=0.25,
)

for batch in data_loader:
    # Mix with replay
    mixed_batch = learner.mix_with_replay(batch)

    # Train step
    loss = train_step(mixed_batch)

    # Update buffer
    learner.update_buffer(batch)
"""

MIXER = """
config = MixerConfig(
    task_weights={
        "tool_selection": 0.35,
        "planning": 0.30,
        "timing": 0.20,
        "general": 0.15,
    },
    strategy="weighted",
)

mixer = MultiTaskMixer(config)

# Mix datasets
mixed_data = mixer.mix({
    "tool_selection": tool_selection_samples,
    "planning": planning_samples,
    "timing": timing_samples,
    "general": general_samples,
})

# Check distribution
dist = mixer.get_task_distribution(mixed_data)
print(f"Task distribution: {dist}")
"""

EVALUATOR = """
from sage.libs.finetune.agent import (
    AgentCapabilityEvaluator, CapabilityScore, CapabilityReport
)

evaluator = AgentCapabilityEvaluator()

# Full evaluation
report = evaluator.evaluate(model, {
    "tool_use": tool_test_data,
    "planning": planning_test_data,
    "reasoning": reasoning_test_data,
})

# Print summary
print(report.summary())
# Output:
# Agent Capability Report
# -----------------------
# Tool Use: 0.92 (n=500)
# Planning: 0.78 (n=300)
# Reasoning: 0.85 (n=400)
# Overall: 0.85

# Access individual scores
tool_score = report.get_score("tool_use")
"""

METHODS = """
from sage.benchmark.benchmark_agent.experiments.method_comparison import (
    MethodRegistry, MethodConfig
)

# Get all methods
all_methods = MethodRegistry.get_all_methods()
print(f"Available: {list(all_methods.keys())}")

# Get specific method config
fireact_config = all_methods["E_fireact"]
print(f"FireAct: {fireact_config.description}")

# Create custom method
custom = MethodConfig(
    name="My Method",
    description="Custom combination",
    use_dora=True,
    use_continual=True,
    continual_buffer_size=4096,
)
"""
