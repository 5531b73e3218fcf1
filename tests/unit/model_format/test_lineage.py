"""The origin of a model in its metadata.json, and in the tags of an imported version."""

from __future__ import annotations

import pytest

from bloomery_model.lineage import Lineage, read_lineage

METADATA = {
    "trainingJob": {"namespace": "shop", "name": "flowers", "uid": "u"},
    "datasets": [{"name": "paint", "version": "a1"}, {"name": "ink", "version": "b2"}],
    "run": {"experimentId": "1", "runId": "r7"},
}


def test_lineage_is_that_of_the_metadata() -> None:
    lineage = read_lineage(METADATA)
    assert lineage == Lineage(
        run_id="r7", training_job="shop/flowers", dataset_name="paint,ink", dataset_version="a1,b2"
    )
    assert lineage.tags == {
        "bloomery.dev/trainingjob": "shop/flowers",
        "bloomery.dev/dataset": "paint,ink",
        "bloomery.dev/dataset-version": "a1,b2",
        "bloomery.dev/imported-run": "r7",
    }


@pytest.mark.parametrize("metadata", [{}, [], None, {"run": "r7"}, {"run": {"runId": "r7\r\nx-evil: 1"}}])
def test_metadata_of_another_form_has_no_lineage(metadata: object) -> None:
    assert read_lineage(metadata) == Lineage()
    assert not read_lineage(metadata).tags
