"""The functions and folders that docs/architecture.md names, against the sources."""

from __future__ import annotations

import ast
import re

from tools.docs_blocks import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAX_STOPS = 8
_STOP = re.compile(r"^\| `([\w./-]+\.py)` `(\w+)` \|", re.MULTILINE)
_FOLDER = re.compile(r"^\| `([\w/]+/)` \|", re.MULTILINE)
_SECTIONS = {
    "The operator": "operator/src/bloomery_operator",
    "The trainer": "trainer-image/src/bloomery_trainer",
    "The model server": "serving-image/src/bloomery_serving",
    "The plugin": "plugin/src/kubectl_bloomery",
}


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_walks_name_functions_that_exist() -> None:
    walks = section("Two quantities, from the field to their use").split("The learning rate, from")
    for walk in walks:
        stops = _STOP.findall(walk)
        assert 3 < len(stops) <= MAX_STOPS
        for path, name in stops:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            names = {
                node.name
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            }
            assert name in names, path


def test_sections_list_every_folder_of_their_package() -> None:
    for title, package in _SECTIONS.items():
        folders = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
        named = set(_FOLDER.findall(section(title)))
        assert folders <= named, title
        assert all((ROOT / package / name).is_dir() for name in named), title
