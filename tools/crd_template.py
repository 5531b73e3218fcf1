"""Generator of the template in crds/retrainings.yaml: the spec of a TrainingJob (``python -m tools.crd_template``).

A CRD cannot refer to the schema of another one, so the template is a copy between two comments. It leaves out the rules
against changes, as the template of later TrainingJobs may change. The generator also writes the chart's copy of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

from dev.paths import ROOT

SOURCE = ROOT / "crds" / "trainingjobs.yaml"
TARGET = ROOT / "crds" / "retrainings.yaml"
CHART_COPY = ROOT / "charts" / "bloomery" / "files" / "crds" / TARGET.name
_BEGIN = "# Written by `make reference` from trainingjobs.yaml: change that.\n"
_END = "# The end of what is written.\n"
_SPEC = " " * 12 + "spec:\n"
_STATUS = " " * 12 + "status:\n"
_RULE = " " * 16 + "- rule:"
_FIELDS = " " * 14 + "properties:\n"
_SHIFT = " " * 8
_SENTENCES = {
    "The parameters of the training. After creation, only suspend, stop, tensorboard, displayName, "
    "description and ttlSecondsAfterFinished can change.": "The spec of each TrainingJob. A change applies to the "
    "next one.",
    "Default: the weights that torchvision publishes for the network if they are available, otherwise from "
    "scratch;": "Default: the champion, which is the version with output.promote.alias, if there is one that a "
    "TrainingJob made, otherwise as for a TrainingJob;",
    "Default: the name of this TrainingJob.": "Default: the name of this Retraining.",
    "such as 0.95. Default: no test.": "such as 0.95. Default: 0.975.",
}
"""Sentences that differ in a template."""


def render(source: str, target: str) -> str:
    """Return the text of the CRD with the template that the other CRD's text describes."""
    head, _, rest = target.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    indent = head[head.rindex("\n") + 1 :]
    return f"{head}{_BEGIN}{_template(source)}{indent}{_END}{tail}"


def _template(source: str) -> str:
    lines = source.splitlines(keepends=True)
    spec = list(takewhile(lambda line: line != _STATUS, lines[lines.index(_SPEC) :]))
    text = "".join(_SHIFT + line if line.strip() else line for line in _without_change_rules(spec))
    for sentence, other in _SENTENCES.items():
        # Folded texts break their lines anywhere.
        pattern = re.compile(r"\s+".join(map(re.escape, sentence.split())))
        text, count = pattern.subn(other, text)
        if count != 1:
            raise ValueError(f"{SOURCE.name} has {count} times, not once: {sentence}")
    return re.sub(r"\bspec\.(?=[a-z])", "spec.template.spec.", text)


def _without_change_rules(spec: list[str]) -> Iterator[str]:
    """Yield the lines of a spec without the rules that compare it with the former one."""
    fields = spec.index(_FIELDS)
    item: list[str] = []
    for line in (*spec[:fields], ""):
        if line.startswith(_RULE) or not line:
            yield from () if "oldSelf" in "".join(item) else item
            item = []
        item.append(line)
    yield from spec[fields:]


def main() -> None:
    """Write the CRD and the chart's copy of it."""
    text = render(SOURCE.read_text(encoding="utf-8"), TARGET.read_text(encoding="utf-8"))
    for path in (TARGET, CHART_COPY):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
