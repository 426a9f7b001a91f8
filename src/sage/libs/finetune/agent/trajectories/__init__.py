"""From tasks to kept episodes (FireAct, Chen et al. 2023, https://arxiv.org/abs/2310.05915).

protocols   what an agent, a task and an environment must look like, and how their answers are read
episode     one task, one environment, the steps so far; the only place where foreign code may fail
collector   many episodes, one after another or in lockstep, each written down as it ends
filter      which of them are worth training on, and why the others are not
io          the JSONL file they live in
"""
