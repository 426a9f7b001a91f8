"""The form of a reply: bullets, sections, highlights, JSON ... (IFEval `detectable_format:*`, `detectable_content:*`).

Where the published definition is a pattern that backtracks (a title, a placeholder, blank lines before a bullet), the
same matches are found here by searching once from left to right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.check import Check, count, text

CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}
_FENCES = ("```json", "```Json", "```JSON", "```")


def _bullets(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Exactly so many lines that begin with `*` (not `**`) or `-`."""
    found = len(_STAR_BULLET.findall(reply)) + len(_DASH_BULLET.findall(reply))
    return found == int(arguments["num_bullets"])


def _highlights(reply: str, arguments: Mapping[str, Any]) -> bool:
    """At least so many of `*this*` or `**this**` that are not blank, on one line each."""
    single = sum(bool(words.strip()) for words in _HIGHLIGHT.findall(reply))
    double = sum(bool(words.strip()) for words in _DOUBLE_HIGHLIGHT.findall(reply))
    return single + double >= int(arguments["num_highlights"])


def _sections(reply: str, arguments: Mapping[str, Any]) -> bool:
    """At least so many marks of a section: the word, then a number."""
    marks = re.findall(re.escape(arguments["section_spliter"]) + r"\s?\d+", reply)
    return len(marks) >= int(arguments["num_sections"])


def _json(reply: str, arguments: Mapping[str, Any]) -> bool:
    """The whole reply is JSON, in a markdown fence or not."""
    inner = reply.strip()
    for fence in _FENCES:
        inner = inner.removeprefix(fence)
    try:
        json.loads(inner.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Some line holds `<<words>>`."""
    for line in reply.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _constrained(reply: str, arguments: Mapping[str, Any]) -> bool:
    return any(answer in reply for answer in CONSTRAINED_ANSWERS)


def _placeholders(reply: str, arguments: Mapping[str, Any]) -> bool:
    """At least so many of `[this]`, each within a line; `[]` is one too."""
    found = 0
    for line in reply.split("\n"):
        position = 0
        while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
            found, position = found + 1, end + 1
    return found >= int(arguments["num_placeholders"])


def _postscript(reply: str, arguments: Mapping[str, Any]) -> bool:
    """The mark of the postscript stands somewhere; `P.S.` and `P.P.S` may be spaced."""
    marker = arguments["postscript_marker"]
    pattern = _POSTSCRIPTS.get(marker)
    return bool(pattern.search(reply.lower())) if pattern else marker.lower() in reply.lower()


CHECKS = {
    "detectable_content:number_placeholders": Check(_placeholders, {"num_placeholders": count}),
    "detectable_content:postscript": Check(_postscript, {"postscript_marker": text}),
    "detectable_format:number_bullet_lists": Check(_bullets, {"num_bullets": count}),
    "detectable_format:constrained_response": Check(_constrained),
    "detectable_format:number_highlighted_sections": Check(_highlights, {"num_highlights": count}),
    "detectable_format:multiple_sections": Check(_sections, {"section_spliter": text, "num_sections": count}),
    "detectable_format:json_format": Check(_json),
    "detectable_format:title": Check(_title),
}
