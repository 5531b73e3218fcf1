"""Golden manifests: the builders' results as YAML under ``tests/golden``, to be reviewed as a diff.

``pytest tests/unit/operator --regen-golden`` writes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bloomery_operator.domain.labels import POD_TEMPLATE

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


class _Dumper(yaml.SafeDumper):
    """Dumper that writes a text of several lines as a block, so that a diff shows the line that changed."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag."""
    parser.addoption("--regen-golden", action="store_true", help="write tests/golden instead of comparing")


def _without_record(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without the annotation that repeats its pod template; another test compares the two."""
    metadata = manifest["metadata"]
    annotations = {name: v for name, v in metadata.get("annotations", {}).items() if name != POD_TEMPLATE}
    return manifest | {"metadata": metadata | ({"annotations": annotations} if annotations else {})}


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that compares manifests with the golden file of that name."""

    def compare(name: str, *manifests: dict[str, Any]) -> None:
        text = yaml.dump_all(
            map(_without_record, manifests), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
        )
        path = GOLDEN / f"{name}.yaml"
        if request.config.getoption("--regen-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run with --regen-golden and review it"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: --regen-golden, and review the diff"

    return compare
