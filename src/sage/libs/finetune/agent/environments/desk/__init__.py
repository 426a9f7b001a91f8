"""The desk: an office of tools over a real SQLite database, with tasks, a judge and experts. Nothing to download.

store.py         the database of one task           tools.py        sixteen tools: JSON schema + function
requests.py      worlds and right outcomes          scripts.py      the expert's plans
kinds.py         wordings, world and plan by kind   suite.py        tasks by split and seed
environment.py   reset, step, judge                 expert.py       the expert and the noisy expert

The tasks are synthetic and made by this project: they show that the pipeline works, not how good a model is elsewhere.
"""

from sage.libs.finetune.agent.environments.desk.environment import DeskEnvironment
from sage.libs.finetune.agent.environments.desk.expert import DeskExpert, NoisyDeskExpert
from sage.libs.finetune.agent.environments.desk.suite import SPLITS, SYSTEM_PROMPT, desk_tasks

__all__ = ["SPLITS", "SYSTEM_PROMPT", "DeskEnvironment", "DeskExpert", "NoisyDeskExpert", "desk_tasks"]
