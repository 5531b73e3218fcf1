"""docs/troubleshooting.md and the code know the same reasons."""

from __future__ import annotations

import re
from typing import get_args

from bloomery_model.decode import ErrorCode
from bloomery_trainer.prepare.quality_queries import LABEL_CONFLICT, LEAK, NEAR_LEAK
from tests.unit.docs.reasons import reasons
from tools.docs_blocks import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CALLING = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8").partition("## Calling a service")[2]

IMAGES = {"Violation", "Assignment", "LeftOut", "Problem", "_UnusableMember", "_leave_out", "IgnoredFile"}
UNREADABLE = set(get_args(ErrorCode))
"""Codes of images that cannot be decoded, which a service and a batch prediction pass on."""
ANSWERS = {"RequestError", "FeedbackError"}
COPIES = {LABEL_CONFLICT, LEAK, NEAR_LEAK}
"""Reasons that queries give to images for their copies."""
PASSED_ON = {"error.reason", "error.code", "result.code", "file.reason", "reason", "capture.reason", "None"}
"""Reasons of the trainer and the server that are made elsewhere, or of images that are used or captured."""
OF_THE_PROTOCOL = ("api/open_inference_codec.py", "api/open_inference.py")
"""The files whose answers show the sentence only, by the protocol's own form."""


def listed(text: str) -> set[str]:
    """The words of the first cells of the tables that have reasons there."""
    cells = re.findall(r"^\| (`[A-Z][^|]*) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([A-Z]\w+)`", cell)}


def page_parts() -> tuple[str, str]:
    conditions, _, images = PAGE.partition("## Images that were left out")
    return conditions, images


def test_every_reason_that_is_no_literal_comes_from_elsewhere() -> None:
    assert {reason.expression for reason in reasons() if not reason.word} == PASSED_ON


def test_exactly_the_reasons_of_conditions_are_explained() -> None:
    conditions, _ = page_parts()
    expected = {r.word for r in reasons() if r.word and r.made_by not in IMAGES | ANSWERS}
    assert listed(conditions) == expected


def test_every_reason_to_leave_an_image_out_is_explained() -> None:
    _, images = page_parts()

    assert listed(images) == {r.word for r in reasons() if r.word and r.made_by in IMAGES} | COPIES | UNREADABLE


def test_every_code_of_a_refused_request_is_explained() -> None:
    """The page about calling a service has the table."""
    expected = {r.word for r in reasons() if r.word and r.made_by in ANSWERS and not r.file.endswith(OF_THE_PROTOCOL)}
    expected |= UNREADABLE
    table = "\n".join(line for line in CALLING.splitlines() if re.match(r"\| \d{3}", line))

    assert set(re.findall(r"`([A-Z]\w+)`", table)) == expected
