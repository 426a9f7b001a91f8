"""Everything that can be wrong with training rows, found before a minute of training is spent on them.

faults   the kinds of faults, and their tally
rows     what can be seen without a model: turns, calls, duplicates
tokens   what only a tokenizer and its template show
"""
