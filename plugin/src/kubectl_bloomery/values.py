"""Values as people write them on a command line: pure."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import yaml


class _JsonTypes(yaml.SafeLoader):
    """YAML whose plain words are text unless JSON knows them: ``on`` is no switch, and ``20:0.001`` no number."""


_JsonTypes.yaml_implicit_resolvers = {}
for _tag, _form in {
    "null": r"null",
    "bool": r"true|false",
    "int": r"-?(0|[1-9][0-9]*)",
    "float": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?",
}.items():
    _JsonTypes.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_form})\Z"), None)


def read_value(text: str) -> Any:
    """Return JSON where a text is JSON; a list, a map or quoted text as YAML has them in a line; else the text itself.

    Raises:
        ValueError: it begins as a list, a map or quoted text, and is none.
    """
    if text.startswith(("[", "{", "'", '"')):
        try:
            return yaml.load(text, _JsonTypes)
        except yaml.YAMLError as error:
            raise ValueError(text) from error
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
