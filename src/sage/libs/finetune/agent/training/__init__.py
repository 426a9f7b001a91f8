"""Training on agent rows.

sft    the trainer: train, evaluate, save, load       data   from a data reference to token rows
loop   transformers' Trainer with our batches and loss    ask    asking a model for the turns of held-out rows
run    the run folder                                 card   its README: results, how to load and serve
"""
