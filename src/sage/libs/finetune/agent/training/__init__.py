"""Training on agent rows.

sft          the trainer: train, evaluate, save, load      data         from a data reference to token rows
fit          what is made ready around the loop            batching     which rows make a batch
loop         transformers' Trainer with our batches        callbacks    the log, the trackers, the stop at a signal
coreset      which rows are trained on                     replay       rows of the past in each step
checkpoints  written whole or not at all                   guards       what stops a run, in one line
watch        evaluation during training                    ask          asking a model for the turns of held-out rows
estimate     memory; available, duration: the machine      dry_run      what a run would do
processes    several that train one model                  export       merged folders and GGUF
run          the run folder                                card         its README; serving: the exact commands
stream       tasks one after the other, each a run         own_rows     rows a model writes itself, for replay
             (stream_config, stream_record: its settings, and what it has done so far)
"""
