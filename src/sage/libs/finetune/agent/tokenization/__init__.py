"""Conversation <-> tokens: what a model reads, what it is trained on, and what it said.

```
template.py   which chat template speaks for a tokenizer: the model's own if it can show tools, else ours
templates/    ours: ChatML with tools, in a compact and a JSON (Hermes) form
render.py     messages + tools -> input_ids, labels, weights; and the prompt to continue
parse.py      a reply's text -> its words and its tool calls (the inverse of the rendering)
truncate.py   a conversation that is too long -> one that fits, whole exchanges dropped
collate.py    rows -> a padded batch
```
"""
