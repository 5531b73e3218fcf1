"""docs/modules.md against the docstrings of the sources."""

from __future__ import annotations

from tools.modules import PACKAGES, PAGE, render


def test_page_is_as_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run make reference"


def test_every_package_has_its_modules() -> None:
    page = render()
    for title, folder in PACKAGES.items():
        section = page.partition(f"## {title}:")[2].partition("\n## ")[0]
        modules = [path for path in folder.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        assert modules
        assert section.count("\n| `") == len(modules), title
