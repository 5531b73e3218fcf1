"""The option ``--set PATH=VALUE``: changes to a spec."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

from kubectl_bloomery.errors import CommandError

_PATH_PART = re.compile(r"(?:\.|^)((?:\\.|[^.\[\]\\])+)|\[([^\[\]]+)\]")
"""A name after a dot, with backslash as the escape character, or any text in brackets."""


def apply_changes(spec: Mapping[str, Any], changes: Collection[str]) -> dict[str, Any]:
    """Return a spec with changes such as ``hyperparameters.epochs=30`` or ``resources.limits[nvidia.com/gpu]=2``.

    The value ``null`` removes a field.

    Raises:
        CommandError: a change is malformed, or its path does not exist.
    """
    changed = copy.deepcopy(dict(spec))
    for change in changes:
        path, equals, text = change.partition("=")
        parts = _split_path(path.removeprefix("spec."))
        if not equals or not parts:
            raise CommandError(f"--set needs path=value, such as hyperparameters.epochs=30, not {change!r}.")
        _set_value(changed, parts, _parse_value(text, change), change)
    return changed


def _split_path(path: str) -> list[str]:
    """Return the names and positions of a path; empty if it is malformed."""
    parts, end = [], 0
    while match := _PATH_PART.match(path, end):
        name, bracketed = match.groups()
        parts.append(bracketed or re.sub(r"\\(.)", r"\1", name))
        end = match.end()
    return parts if end == len(path) else []


def _parse_value(text: str, change: str) -> Any:
    # Imported only here: YAML is slow to load, and completion must be fast.
    from kubectl_bloomery.inline_yaml import parse_value

    try:
        return parse_value(text)
    except ValueError as error:
        raise CommandError(f"--set {change}: the value is not valid YAML.") from error


def _set_value(parent: Any, parts: list[str], value: Any, change: str) -> None:
    first, *rest = parts
    if isinstance(parent, list):
        if not first.isdecimal() or int(first) >= len(parent):
            raise CommandError(f"--set {change}: the list has {len(parent)} items, counted from 0; {first} is none.")
        key: Any = int(first)
    elif isinstance(parent, dict):
        key = first
    else:
        raise CommandError(f"--set {change}: {parent!r} has no field {first!r}.")
    if rest:
        if isinstance(parent, dict):
            parent.setdefault(key, {})
        _set_value(parent[key], rest, value, change)
    elif value is None:
        parent.pop(key, None) if isinstance(parent, dict) else parent.pop(key)
    else:
        parent[key] = value
