"""From tasks to kept episodes (FireAct, Chen et al. 2023, https://arxiv.org/abs/2310.05915).

protocols   what an agent, a task and an environment must look like, and how their answers are read
episode     one task, one environment, the steps so far; the only place where foreign code may fail
collector   many episodes at once, each written down as it ends, and gone on with after a kill
execution/  where they run: in turns, in threads, on a Ray cluster; Ctrl-C
agents      a local model as an agent, many episodes at a time
endpoint    a model behind an OpenAI-compatible server
strategies  FireAct's ways to prompt: react, cot, reflexion
dialogue    what a model reads before a step
replies     how its reply becomes a step
filter      which of them are worth training on, and why the others are not
io          the JSONL file they live in
"""
