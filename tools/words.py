"""Check of the house rules for words (``python -m tools.words``): names, prose and module docstrings.

Prints ``FILE:LINE: WORD -> REPLACEMENT`` for each finding, and exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dev.paths import ROOT
from tools.glossary import IDENTIFIERS, IMAGE_IDENTIFIERS, INDIRECT_OPENINGS, PARTICIPLES, PROSE

PACKAGES: Mapping[str, str] = {
    "model-format/src": "model",
    "operator/src": "operator",
    "serving-image/src": "serving",
    "trainer-image/src": "trainer",
    "plugin/src": "plugin",
}
CHECKED_PATHS = (*PACKAGES, "dev", "testing", "tests", "tools", "bench", "crds", "charts", "docs", "examples", "*.md")
"""Default paths."""

_SUFFIXES = frozenset({".py", ".md", ".yaml", ".html", ".js", ".txt", ".tpl"})
_EXEMPT = frozenset({"tools/glossary.py", "tests/unit/tools/test_words.py", "docs/reference.md"})
"""The list of words and its test, and the page that is generated from crds/."""
_IMAGE_PACKAGES = ("model", "serving", "trainer")
_PROSE = {re.compile(rf"\b{word}\b", re.IGNORECASE): replacement for word, replacement in PROSE.items()}
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


@dataclass(frozen=True, order=True)
class Finding:
    """A word that breaks the rules."""

    path: str
    line: int
    word: str
    replacement: str

    def __str__(self) -> str:
        """Return the line of output."""
        return f"{self.path}:{self.line}: {self.word} -> {self.replacement}"


@dataclass(frozen=True)
class Definition:
    """A place where a name is defined.

    Attributes:
        kind: ``module``, ``class``, ``def`` or ``name``.
        owner: the class around a method or attribute; else empty.
    """

    kind: str
    name: str
    owner: str
    line: int


def check_python(source: str, path: str, package: str) -> Iterator[Finding]:
    """Yield the findings in a Python file of a package."""
    tree = ast.parse(source)
    yield from _check_module_docstring(tree, path)
    rules = {**IDENTIFIERS.get(package, {}), **(IMAGE_IDENTIFIERS if package in _IMAGE_PACKAGES else {})}
    for definition in [Definition("module", Path(path).stem, "", 1), *_definitions(tree)]:
        replacement = _find_rule(definition, rules)
        if replacement is None and definition.name.strip("_") in PARTICIPLES:
            replacement = "a noun"
        if replacement is not None:
            yield Finding(path, definition.line, definition.name, replacement)
    for line, text in _comments(source):
        yield from check_prose(text, path, first_line=line)
    lines = source.splitlines()
    for string in _strings(tree):
        for finding in check_prose(str(string.value), path, first_line=string.lineno):
            yield replace(finding, line=_source_line(finding, string, lines))


def check_prose(text: str, path: str, *, first_line: int = 1) -> Iterator[Finding]:
    """Yield the findings in a text, outside of code in backticks."""
    prose = _CODE.sub(_blank, text)
    for pattern, replacement in _PROSE.items():
        for match in pattern.finditer(prose):
            line = first_line + prose.count("\n", 0, match.start())
            yield Finding(path, line, " ".join(match[0].split()), replacement)


def check_file(path: Path, root: Path = ROOT) -> Iterator[Finding]:
    """Yield the findings in a file."""
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from check_python(text, name, package_of(name))
    else:
        yield from check_prose(text, name)


def package_of(path: str) -> str:
    """Return the package of a file's path, or its first folder if it is in no package."""
    for folder, package in PACKAGES.items():
        if path.startswith(f"{folder}/"):
            return package
    return path.partition("/")[0] if "/" in path else "pages"


def list_files(paths: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the files to check below paths or patterns."""
    roots = [match for path in paths for match in sorted(root.glob(path))]
    files = [file for path in roots for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [
        file
        for file in files
        if file.suffix in _SUFFIXES and file.is_file() and file.relative_to(root).as_posix() not in _EXEMPT
    ]


def _check_module_docstring(tree: ast.Module, path: str) -> Iterator[Finding]:
    docstring = ast.get_docstring(tree) or ""
    first_word = re.split(r"\W", docstring, maxsplit=1)[0]
    if first_word in INDIRECT_OPENINGS:
        yield Finding(path, 1, first_word, "a noun phrase or a verb")


def _definitions(tree: ast.AST, owner: str = "") -> Iterator[Definition]:
    """Yield the names that a tree defines; ``owner`` is the class around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield Definition("class", node.name, owner, node.lineno)
            yield from _definitions(node, node.name)
            continue
        if isinstance(node, _FUNCTIONS):
            yield Definition("def", node.name, owner, node.lineno)
        elif isinstance(node, ast.arg):
            yield Definition("name", node.arg, owner, node.lineno)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Definition("name", node.id, owner, node.lineno)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield Definition("name", node.attr, owner, node.lineno)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield Definition("name", node.name, owner, node.lineno)
        yield from _definitions(node, owner)


def _find_rule(definition: Definition, rules: Mapping[str, str]) -> str | None:
    """Return the replacement of a name that the glossary forbids; a rule for a class wins over a general one."""
    candidates = [
        (bool(owners), replacement)
        for rule, replacement in rules.items()
        for kind, owners, name in [_parse_rule(rule)]
        if name == definition.name and kind in ("", definition.kind) and (not owners or definition.owner in owners)
    ]
    return max(candidates)[1] if candidates else None


def _parse_rule(rule: str) -> tuple[str, frozenset[str], str]:
    """Return kind, classes and name of a glossary's key; kind and classes may be empty."""
    kind, _, qualified_name = rule.rpartition(" ")
    owners, _, name = qualified_name.rpartition(".")
    return kind, frozenset(filter(None, owners.split("|"))), name


def _strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield docstrings and other strings of several words, also as parts of f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\S\s+\S|^\s|\s$", node.value):
            yield node


def _source_line(finding: Finding, string: ast.Constant, lines: Sequence[str]) -> int:
    """Return the source line of a word in a string, whose parts and escapes move the words to other lines."""
    string_lines = range(string.lineno, (string.end_lineno or string.lineno) + 1)
    candidates = (finding.line, *string_lines) if finding.line in string_lines else string_lines
    return next((number for number in candidates if finding.word in lines[number - 1]), string.lineno)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments, adjacent lines as one text, each with its first line."""
    block: list[str] = []
    first, last = 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                if block:
                    yield first, "\n".join(block)
                block, first = [], token.start[0]
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield first, "\n".join(block)


def _blank(match: re.Match[str]) -> str:
    """Return spaces for code, so that lines keep their numbers."""
    return re.sub(r"[^\n]", " ", match[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Check files; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tools.words", description="Check the house rules for words.")
    parser.add_argument("paths", nargs="*", default=CHECKED_PATHS, help="paths or patterns below the repository")
    parser.add_argument("--count", action="store_true", help="print only the number of findings by package")
    options = parser.parse_args(arguments)
    findings = sorted({finding for file in list_files(options.paths) for finding in check_file(file)})
    if options.count:
        counts = Counter(package_of(finding.path) for finding in findings)
        print("\n".join(f"{package}: {count}" for package, count in sorted(counts.items())))
    else:
        print("".join(f"{finding}\n" for finding in findings), end="")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
