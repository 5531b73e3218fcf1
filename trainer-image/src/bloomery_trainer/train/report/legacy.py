"""What people read after a run: the predictions as CSV, the confusion matrix as a page."""

from __future__ import annotations

import csv
import html
from pathlib import Path

from bloomery_trainer.train.dataset import ImageFiles
from bloomery_trainer.train.evaluate import Evaluation

_CELLS = 60
"""A page of more classes than this shows only where the model went wrong."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Confusion matrix</title><style>
body{{font:14px system-ui,sans-serif;margin:1.5rem}}table{{border-collapse:collapse}}
td,th{{border:1px solid #ddd;padding:.3rem .5rem;text-align:right;font-weight:normal}}th{{background:#f6f6f6}}
</style></head><body><h1>Confusion matrix</h1><p>{note}</p><table>{rows}</table></body></html>
"""


def write_predictions(path: Path, evaluation: Evaluation, *, files: ImageFiles, classes: tuple[str, ...]) -> None:
    """Writes one line for each validation image: its key, its class, the model's answer and how sure it was."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "predicted", "score", "correct"])
        rows = zip(files.labels, evaluation.predicted, evaluation.probabilities.max(axis=1), strict=True)
        for index, (label, predicted, score) in enumerate(rows):
            correct = "yes" if predicted == label else "no"
            writer.writerow([files.key(index), classes[label], classes[predicted], f"{score:.4f}", correct])


def confusion_page(matrix: list[list[int]], classes: tuple[str, ...]) -> str:
    """The confusion matrix as an HTML page: class names in any script, deeper colour for more images."""
    if len(classes) > _CELLS:
        return _PAGE.format(note="The most frequent mistakes.", rows=_mistakes(matrix, classes))
    names = [html.escape(name) for name in classes]
    head = "<tr><th></th>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    rows = [head]
    for name, counts in zip(names, matrix, strict=True):
        total = max(1, sum(counts))
        rows.append(f"<tr><th>{name}</th>" + "".join(_cell(count, count / total) for count in counts) + "</tr>")
    return _PAGE.format(note="Rows are the true classes, columns the model's answers.", rows="\n".join(rows))


def _cell(count: int, share: float) -> str:
    return f'<td style="background:rgba(40,110,200,{share:.2f})">{count or ""}</td>'


def _mistakes(matrix: list[list[int]], classes: tuple[str, ...]) -> str:
    pairs = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    rows = ["<tr><th>true</th><th>answer</th><th>images</th></tr>"]
    for count, true, answer in sorted(pairs, key=lambda pair: -pair[0])[:500]:
        names = html.escape(classes[true]), html.escape(classes[answer])
        rows.append(f"<tr><td>{names[0]}</td><td>{names[1]}</td><td>{count}</td></tr>")
    return "\n".join(rows)
