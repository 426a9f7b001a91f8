"""The forms that rows may come in, by the name that `--from` calls them."""

from __future__ import annotations

from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.sources.importers.alpaca import ALPACA
from sage.libs.finetune.agent.sources.importers.anthropic import ANTHROPIC
from sage.libs.finetune.agent.sources.importers.atif import ATIF
from sage.libs.finetune.agent.sources.importers.base import Importer
from sage.libs.finetune.agent.sources.importers.chat import CHAT
from sage.libs.finetune.agent.sources.importers.fireact import FIREACT
from sage.libs.finetune.agent.sources.importers.own import OWN
from sage.libs.finetune.agent.sources.importers.react import REACT
from sage.libs.finetune.agent.sources.importers.sharegpt import SHAREGPT

ORDER = (OWN, ATIF, FIREACT, REACT, ANTHROPIC, SHAREGPT, CHAT, ALPACA)
"""Most specific first: where several forms fit, the first one is what the file is."""

IMPORTERS = Registry[Importer]("form of rows")
for _importer in ORDER:
    IMPORTERS.add(_importer.name, _importer)
for _other, _name in (("openai", CHAT.name), ("chatml", CHAT.name), ("agentinstruct", SHAREGPT.name)):
    IMPORTERS.alias(_other, _name)
