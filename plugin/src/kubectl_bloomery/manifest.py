"""A new TrainingJob out of an old one, and changes to manifests by their paths: pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

from kubectl_bloomery.kubectl import CommandError, Manifest

LONGEST_NAME = 40
"""Characters in a TrainingJob's name, at most."""
_PART = re.compile(r"(?:\.|^)((?:\\.|[^.\[\]\\])+)|\[([^\[\]]+)\]")
"""A name after a dot, in which a backslash makes the next character a letter, or anything in brackets."""


def next_name(name: str, taken: Collection[str]) -> str:
    """Return the first free name in the row ``flowers``, ``flowers-2``, ``flowers-3``."""
    found = re.fullmatch(r"(.+)-(\d{1,6})", name)
    stem, number = (found[1], int(found[2])) if found else (name, 1)
    while True:
        number += 1
        end = f"-{number}"
        candidate = stem[: LONGEST_NAME - len(end)].rstrip("-") + end
        if candidate not in taken:
            return candidate


def again(old: Manifest, name: str) -> dict[str, Any]:
    """Return a TrainingJob that does what an old one did, as a version of the same model.

    Metadata stay behind: labels and annotations may belong to whatever made the old one.
    """
    spec = copy.deepcopy(dict(old["spec"]))
    for wish in ("stop", "suspend"):
        spec.pop(wish, None)
    output = spec.setdefault("output", {})
    # A label names one version, and a folder holds the checkpoints of one job.
    output.pop("versionLabel", None)
    output.setdefault("registeredModel", old["metadata"]["name"])
    for field in ("uri", "logUri"):
        if field in output:
            output[field] = _beside(output[field], old["metadata"]["name"], name)
    metadata = {"name": name, "namespace": old["metadata"]["namespace"]}
    return {"apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": metadata, "spec": spec}


def _beside(uri: str, old: str, new: str) -> str:
    """Return another folder beside a folder: that of the new name, where the old one's name is its last part."""
    parent, _, last = uri.rstrip("/").rpartition("/")
    return f"{parent}/{new}" if last == old else f"{parent}/{last}-{new}"


def with_changes(spec: Mapping[str, Any], changes: Collection[str]) -> dict[str, Any]:
    """Return a spec with changes such as ``hyperparameters.epochs=30`` or ``resources.limits[nvidia.com/gpu]=2``.

    ``null`` takes a field away.

    Raises:
        CommandError: a change is not of that form, or leads nowhere.
    """
    changed = copy.deepcopy(dict(spec))
    for change in changes:
        path, equals, text = change.partition("=")
        parts = _parts(path.removeprefix("spec."))
        if not equals or not parts:
            raise CommandError(f"--set wants path=value, such as hyperparameters.epochs=30, not {change!r}.")
        _set(changed, parts, _value(text, change), change)
    return changed


def _parts(path: str) -> list[str]:
    """Return the names and positions that a path leads along; none where it is no path."""
    parts, end = [], 0
    while found := _PART.match(path, end):
        name, bracketed = found.groups()
        parts.append(bracketed or re.sub(r"\\(.)", r"\1", name))
        end = found.end()
    return parts if end == len(path) else []


def _value(text: str, change: str) -> Any:
    # Imported only here: YAML is slow to load, and completion is to be quick.
    from kubectl_bloomery.values import read_value

    try:
        return read_value(text)
    except ValueError as error:
        raise CommandError(f"--set {change}: the value is no YAML.") from error


def _set(place: Any, parts: list[str], value: Any, change: str) -> None:
    first, *rest = parts
    if isinstance(place, list):
        if not first.isdecimal() or int(first) >= len(place):
            raise CommandError(f"--set {change}: the list has {len(place)} items, counted from 0; {first} is none.")
        key: Any = int(first)
    elif isinstance(place, dict):
        key = first
    else:
        raise CommandError(f"--set {change}: there is nothing below {place!r} that could be {first!r}.")
    if rest:
        if isinstance(place, dict):
            place.setdefault(key, {})
        _set(place[key], rest, value, change)
    elif value is None:
        place.pop(key, None) if isinstance(place, dict) else place.pop(key)
    else:
        place[key] = value
