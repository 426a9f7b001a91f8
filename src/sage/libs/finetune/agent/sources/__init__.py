"""From a reference to training rows: a file in any known form, or `name:split` of a registered data set.

resolve    what a reference means, and the data sets known here
files      rows out of a file or folder: `values` those that span lines, `parquet`, `strict` JSON that hides nothing
stream     which form the rows have, and each row as a sample or as an error in its place
importers  one module for each form        rows       is this a conversation we can train on?
"""
