"""Does a call fit the tool it names? Asked before training, before a call is made, and when a reply is scored.

tools   the tools of a row or a task, compiled, and what is wrong with a call by them
quick   a quick yes for the plain schemas of most tools; the rest is jsonschema's
"""
