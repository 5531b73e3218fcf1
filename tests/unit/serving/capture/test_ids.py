"""Ids of predictions: their form, their order and the time in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from bloomery_serving.capture.ids import BadIdError, new_prediction_id, time_of


@pytest.mark.feature("S20")
def test_ids_are_uuids_of_version_7_with_the_time() -> None:
    before = datetime.now(UTC)
    ids = [new_prediction_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert all((UUID(text).version, UUID(text).variant) == (7, "specified in RFC 4122") for text in ids)
    assert before - timedelta(milliseconds=1) <= time_of(ids[0]) <= datetime.now(UTC)
    assert [text[:13] for text in ids] == sorted(text[:13] for text in ids)


@pytest.mark.feature("S20")
@pytest.mark.parametrize(
    "text",
    [
        "", "../../secret", "0193/../../x", "\n", "{0193b1f0-0000-7000-8000-000000000000}",
        "0193b1f0-0000-4000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "0193b1f000007000800000000000000",
        "0193b1f0-0000-7000-8000-000000000000/x", "x" * 5000,
    ],
)  # fmt: skip
def test_other_texts_are_no_ids(text: str) -> None:
    with pytest.raises(BadIdError, match="X-Prediction-Id") as caught:
        time_of(text)

    assert len(str(caught.value)) < 300
