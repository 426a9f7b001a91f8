"""Environments: where agents act. Any object with `reset` and `step` will do.

desk/                 the embedded one: an office of tools over SQLite, with tasks, a judge and experts
functions.py          plain Python functions as tools
gymnasium_text.py     text environments with Gymnasium's interface
textcraft.py          TextCraft, with an expert (extra `textcraft`)
textworld_express.py  TextWorldExpress, with its gold paths (extra `textworld-express`, and Java)
known.py              environments by name, for the command line
arguments.py          does a call fit its tool's schema?
"""
