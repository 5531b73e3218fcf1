"""Values of ``--set``: JSON, or a list or map as YAML writes it in one line."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import yaml


class _JsonScalarLoader(yaml.SafeLoader):
    """A YAML loader with JSON's scalar types: ``on`` and ``20:0.001`` are text."""


_JsonScalarLoader.yaml_implicit_resolvers = {}
for _tag, _pattern in {
    "null": r"null",
    "bool": r"true|false",
    "int": r"-?(0|[1-9][0-9]*)",
    "float": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?",
}.items():
    _JsonScalarLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_pattern})\Z"), None)


def parse_value(text: str) -> Any:
    """Parse a value: JSON, a list, map or quoted text of YAML in one line, or else plain text.

    Raises:
        ValueError: the text begins like a list, a map or quoted text, but is none.
    """
    if text.startswith(("[", "{", "'", '"')):
        try:
            return yaml.load(text, _JsonScalarLoader)
        except yaml.YAMLError as error:
            raise ValueError(text) from error
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except ValueError:
        return text


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
