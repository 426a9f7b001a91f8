"""From a reference to training rows: a JSONL file, or `name:split` of a registered data set.

resolve   what a reference means, and the data sets known here      rows   is this a conversation we can train on?
"""
