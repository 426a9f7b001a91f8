"""Planning problems whose plans can be checked by doing them: worlds of actions, generators, optimal plans.

strips       actions and states, and what a plan does     search       a shortest plan
blocks       towers of blocks                             logistics    packages, trucks and planes
tool_graphs  tools that make things out of things         items        test items of all three, by split and seed
plan_text    the steps of a plan, read out of a reply
"""

from sage.libs.finetune.agent.evaluation.planning.items import planning_items

__all__ = ["planning_items"]
