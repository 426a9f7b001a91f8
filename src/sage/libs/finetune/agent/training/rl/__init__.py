"""Reinforcement learning for agents.

trainer     the one door: model, tasks, rewards, run folder      context     what an algorithm is given and gives back
start       what it begins with, and whether it can              log         figures, episodes, trackers
rollouts    episodes as token sequences                          rewards     what an episode is worth
ppo         ours, with lessons, advantages and objectives        grpo, groups, dpo  on TRL, with our rollouts and masks
pairs       what DPO prefers to what, with pair_trainer          reward_model, reward_training  rewards out of pairs
"""
