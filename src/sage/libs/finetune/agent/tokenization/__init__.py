"""Conversation <-> tokens: what a model reads, what it is trained on, and what it said.

```
template.py     which chat template speaks for a tokenizer: the model's own if it can show tools, else ours
templates/      ours: ChatML with tools, in a compact and a JSON (Hermes) form
layout.py       messages + tools -> text, and where in it each assistant turn stands
render.py       messages + tools -> input_ids, labels, weights; and the prompt to continue
parse.py        a reply's text -> its thought, its words and its tool calls (the inverse of the rendering)
react_text.py   a reply in ReAct text (Thought, Action, Observation) -> its thought and its call
truncate.py     a conversation that is too long -> one row that fits, or windows that train each turn once
collate.py      rows -> a padded batch
```
"""
