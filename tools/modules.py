"""Generator of docs/modules.md: every module of the packages, with the first sentence of its docstring.

``python -m tools.modules`` writes the page; a test fails if the page differs from the sources.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.docs_blocks import ROOT

PAGE = ROOT / "docs" / "modules.md"
PACKAGES = {
    "The operator": ROOT / "operator/src/bloomery_operator",
    "The trainer": ROOT / "trainer-image/src/bloomery_trainer",
    "The model server": ROOT / "serving-image/src/bloomery_serving",
    "The model format": ROOT / "model-format/src/bloomery_model",
    "The plugin": ROOT / "plugin/src/kubectl_bloomery",
    "Tools of the project": ROOT / "tools",
    "Code that tests and benchmarks share": ROOT / "testing",
    "The development cluster": ROOT / "dev",
}
_HEAD = """\
<!-- Written by `make reference` from the docstrings of the modules: change those. -->
# Modules

A line for each module. [Architecture](architecture.md) explains how they work together.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")


def render() -> str:
    """Return the page as the sources describe it."""
    return "\n".join([_HEAD, *(_table(title, folder) for title, folder in PACKAGES.items())])


def _table(title: str, folder: Path) -> str:
    rows = [f"| `{path}` | {purpose} |" for path, purpose in _modules(folder)]
    return "\n".join(
        [f"## {title}: `{folder.relative_to(ROOT)}/`", "", "| module | contents |", "|---|---|", *rows, ""]
    )


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield path and purpose of each module that contains code, files of a folder before its subfolders."""
    paths = sorted(folder.rglob("*.py"), key=lambda path: (path.parent.parts, path.name))
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        purpose = ast.get_docstring(tree)
        if path.name in ("__init__.py", "__main__.py") or purpose is None:
            continue
        yield (
            path.relative_to(folder).as_posix(),
            " ".join(purpose.split("\n\n")[0].split()).replace("|", "\\|").replace("``", "`"),
        )


if __name__ == "__main__":
    main()
