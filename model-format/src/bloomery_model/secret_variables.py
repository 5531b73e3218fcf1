"""The variables that a pod gets from its Secrets: values that people paste, often with a line break at the end."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

_PREFIXES = ("AWS_", "MLFLOW_", "SOURCE_AWS_")


def read_variable(environment: Mapping[str, str], name: str) -> str | None:
    """Return a value without white space at its ends; None if nothing is left of it."""
    return environment.get(name, "").strip() or None


def strip_variables(environment: MutableMapping[str, str]) -> None:
    """Remove white space from the ends of all values for stores and MLflow, which libraries read by themselves."""
    for name, value in list(environment.items()):
        if name.startswith(_PREFIXES) and value != value.strip():
            environment[name] = value.strip()
