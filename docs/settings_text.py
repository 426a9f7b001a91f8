"""What the API pages need beyond docstrings: the settings of a config as a table, and examples as code.

A config describes each field in `option(default, "help", ...)`, once for YAML, flags and `--help`; here these texts and
defaults become the attributes of the class's docstring. `Example:` (Google's singular) would be shown as prose. Only
the source is read, nothing is imported.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe


class SettingsText(griffe.Extension):
    """Describes what is set to `option(...)` in a class, and marks examples as such."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called when all of a package was read."""
        _describe(pkg)


def _describe(obj: griffe.Object) -> None:
    for member in obj.members.values():
        if not member.is_alias:
            _describe(member)
    if obj.docstring:
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value += _settings(obj) if obj.is_class else ""


def _settings(cls: griffe.Object) -> str:
    """A section of Google's style: `name (type): what it is`."""
    lines = [
        f"    {name} ({attribute.annotation}): {_text(ast.parse(str(attribute.value), mode='eval').body)}"
        for name, attribute in cls.members.items()
        if isinstance(attribute, griffe.Attribute)
        and isinstance(attribute.value, griffe.ExprCall)
        and str(attribute.value.function) == "option"
    ]
    return "\n\nAttributes:\n" + "\n".join(lines) if lines else ""


def _text(option: Any) -> str:
    """The help text with the default behind it; what is computed into a text is left out."""
    named = {keyword.arg: keyword.value for keyword in option.keywords}
    default = option.args[0] if option.args else named.get("default")
    text = option.args[1] if len(option.args) > 1 else named["help"]
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    said = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant)).strip().rstrip(":")
    return f"{said}. Required." if default is None else f"{said}. Default: `{ast.unparse(default)}`."
