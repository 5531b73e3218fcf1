"""Every reason and code of the programs: the operator's enum, and those of the trainer and server by syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bloomery_operator.api.reasons import Reason as OperatorReason
from tools.docs_blocks import ROOT

SOURCES = ("model-format/src", "trainer-image/src", "serving-image/src")

_CAMEL_CASE = re.compile(r"[A-Z][A-Za-z0-9]+")
_POSITIONS = {
    "failure": 0,
    "_give_up": 0,
    "TaskError": 0,
    "ModelError": 0,
    "Violation": 0,
    "FolderError": 0,
    "ClassifierError": 0,
    "StoreError": 1,
    "RequestError": 1,
    "FeedbackError": 0,
    "IgnoredFile": 1,
}
"""Calls that make a reason, with the position of that argument; subclasses as their base."""
_BY_NAME = "reason"
"""The keyword argument that is a reason in every call."""
_ENDINGS = "Ending"
"""The type whose members are the ways in which a training ends well."""


@dataclass(frozen=True)
class Reason:
    """A reason that the code gives; its word is empty where it is passed on from elsewhere."""

    made_by: str
    word: str
    expression: str
    file: str


@cache
def reasons() -> tuple[Reason, ...]:
    """All reasons of the programs and of the model format."""
    operators = (Reason("Reason", str(word), str(word), "api/reasons.py") for word in OperatorReason)
    files = [path for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    positions = dict(_positions(list(trees.values())))
    others = (reason for path, tree in trees.items() for reason in _in_module(tree, path, positions))
    return (*operators, *others)


def _positions(trees: list[ast.Module]) -> Iterator[tuple[str, int]]:
    yield from _POSITIONS.items()
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in _POSITIONS:
                yield node.name, _POSITIONS[base.id]


def _in_module(tree: ast.Module, path: Path, positions: dict[str, int]) -> Iterator[Reason]:
    names = _assigned(tree.body)
    yield from _in_scope(tree, names, str(path.relative_to(ROOT)), positions)
    for ending in _words(names.get(_ENDINGS), {}):
        yield Reason(_ENDINGS, ending, ending, path.name)


def _in_scope(scope: ast.AST, names: dict[str, ast.expr], file: str, positions: dict[str, int]) -> Iterator[Reason]:
    """Yield what a module or function makes; a name means what was assigned to it there or around it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_scope(node, names | _assigned(list(ast.walk(node))), file, positions)
            continue
        if isinstance(node, ast.Call):
            for made_by, argument in _reason_of(node, positions):
                expression = ast.unparse(argument)
                for word in _words(argument, names) or [""]:
                    yield Reason(made_by, word, expression, file)
        if isinstance(node, ast.Dict):
            yield from _in_document(node, names, file)
        yield from _in_scope(node, names, file, positions)


def _in_document(document: ast.Dict, names: dict[str, ast.expr], file: str) -> Iterator[Reason]:
    """Yield the words of a document's entry "reason"."""
    for key, value in zip(document.keys, document.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == _BY_NAME:
            for word in _words(value, names):
                yield Reason(_BY_NAME, word, ast.unparse(value), file)


def _reason_of(call: ast.Call, positions: dict[str, int]) -> Iterator[tuple[str, ast.expr]]:
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    position = positions.get(called)
    if position is not None and len(call.args) > position and not isinstance(call.args[0], ast.Starred):
        yield called, call.args[position]
    yield from ((called, keyword.value) for keyword in call.keywords if keyword.arg == _BY_NAME)


def _assigned(body: list[ast.stmt] | list[ast.AST]) -> dict[str, ast.expr]:
    values: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.Assign):
            values |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            values[node.target.id] = node.value
    return values


def _words(expression: ast.expr | None, names: dict[str, ast.expr]) -> list[str]:
    """Return the words that an expression may give; none of what is only passed on."""
    match expression:
        case ast.Constant(value=str(word)):
            return [word] if _CAMEL_CASE.fullmatch(word) else []
        case ast.Name(id=name) if name in names:
            return _words(names[name], {other: value for other, value in names.items() if other != name})
        case ast.BoolOp(values=parts) | ast.Dict(values=parts) | ast.Tuple(elts=parts):
            return [word for part in parts for word in _words(part, names)]
        case ast.IfExp(body=one, orelse=other):
            return _words(one, names) + _words(other, names)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=members):
            return _words(members, names)
        case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, *fallback]):
            return _words(table, names) + [word for part in fallback for word in _words(part, names)]
        case ast.Call(func=ast.Name(id="str"), args=[given]):
            return _words(given, names)
    return []
