"""Which samples to train on: features and losses in, row numbers in order of choice out.

coreset           `CoresetSelector`, the door to all of it
by_name           what each strategy needs              strategies  one pure function a strategy
guards            rows that none should take            texts  what a sample says and which task it is of
features          vectors of texts, without a model     sample_features  features of samples, from wherever they come
scoring           losses and features from a model      shards, score_cache  the same on many workers, and only once
farthest_first    spread: the row farthest from all     facility_location  coverage: the row that represents most
near_duplicates   rows that an earlier one repeats      partition  a million rows, cell by cell
"""
