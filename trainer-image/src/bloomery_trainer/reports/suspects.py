"""Suspected labels for people and programs: the lines of suspects.jsonl, and the blocks to paste into Datasets."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.suspects import Suspects

SHOWN_SUSPECTS = 100
"""Suspects that the page shows, and that a block names."""


def suspect_lines(suspects: Suspects, dataset: LocalDataset) -> Iterator[dict[str, Any]]:
    """Yield the content of each line of suspects.jsonl, the most suspicious first.

    ``action`` is Move where the image probably belongs to the likely class, and Exclude where it may belong to none, or
    its own dataset lacks that class.
    """
    files, classes = dataset.splits["train"], _classes_by_part(dataset)
    for number, suspect in enumerate(suspects.items, start=1):
        part = int(files.records["part"][suspect.index])
        yield {
            "number": number,
            "dataset": dataset.parts[part].name,
            "image": files.key(suspect.index),
            "class": dataset.classes[suspect.given_class],
            "likely": dataset.classes[suspect.likely_class],
            "classScore": round(suspect.given_score, 4),
            "likelyScore": round(suspect.likely_score, 4),
            "action": "Move" if suspect.may_move and (part, suspect.likely_class) in classes else "Exclude",
        }


def _classes_by_part(dataset: LocalDataset) -> set[tuple[int, int]]:
    """Return the pairs of a dataset and a class that it has images of, by their indices."""
    pairs = (np.unique(files.records[["part", "label"]]) for files in dataset.splits.values())
    return {(int(pair["part"]), int(pair["label"])) for unique in pairs for pair in unique}


def suspects_document(suspects: Suspects | None) -> dict[str, Any] | None:
    """Return the part of evaluation.json about the labels; None if they were not examined."""
    if suspects is None:
        return None
    return {
        "suspects": len(suspects.items),
        "examined": suspects.examined,
        "images": suspects.images,
        "fromScratch": suspects.is_from_scratch,
        "fault": suspects.fault,
    }


def paste_blocks(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return for each Dataset the YAML to paste into its spec: ``move`` and ``exclude``, a numbered line each."""
    return {name: _paste_block([line for line in lines if line["dataset"] == name]) for name in _datasets(lines)}


def _datasets(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line["dataset"] for line in lines))


def _paste_block(lines: Sequence[Mapping[str, Any]]) -> str:
    moves = [
        f"    - {{image: {_quoted(line['image'])}, class: {_quoted(line['likely'])}}}  # {line['number']}"
        for line in lines
        if line["action"] == "Move"
    ]
    # The field takes patterns, and a name may look like one.
    exclusions = [
        f"    - {_quoted(glob.escape(line['image']))}  # {line['number']}"
        for line in lines
        if line["action"] == "Exclude"
    ]
    block = ["spec:"]
    for field, entries in (("move", moves), ("exclude", exclusions)):
        if entries:
            block += [f"  {field}:", *entries]
    return "\n".join(block)


def _quoted(text: str) -> str:
    """Return a text as YAML reads it, whatever characters it has; JSON's strings are YAML's."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
