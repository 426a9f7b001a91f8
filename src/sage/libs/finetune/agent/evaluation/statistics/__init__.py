"""How sure a score is, and whether two differ: no number shall be read as more than it is.

intervals    of one score                          paired    two models on the same items
several      many comparisons, effects, power      seeds     models trained several times
"""

from sage.libs.finetune.agent.evaluation.statistics.intervals import bootstrap_interval, wilson_interval
from sage.libs.finetune.agent.evaluation.statistics.paired import (
    McNemar,
    PairedDifference,
    mcnemar,
    paired_bootstrap,
    paired_share_interval,
)
from sage.libs.finetune.agent.evaluation.statistics.seeds import SeededMean, hierarchical_bootstrap
from sage.libs.finetune.agent.evaluation.statistics.several import (
    cohens_h,
    detectable_difference,
    holm,
    required_n,
    standardised_difference,
)

__all__ = [
    "McNemar",
    "PairedDifference",
    "SeededMean",
    "bootstrap_interval",
    "cohens_h",
    "detectable_difference",
    "hierarchical_bootstrap",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_share_interval",
    "required_n",
    "standardised_difference",
    "wilson_interval",
]
