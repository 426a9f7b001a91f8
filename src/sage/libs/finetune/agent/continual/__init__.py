"""Experience replay: old rows beside new ones, so that a model keeps what it learned before.

learner   the buffer, and batches mixed with what it holds      policies   which rows of a stream keep a place
batches   rows out of a batch and back into one                 storage    a buffer as tensors, JSON and files
"""
