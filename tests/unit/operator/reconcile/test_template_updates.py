"""Updates of pod templates after an upgrade: how many at a time."""

from __future__ import annotations

import pytest

from bloomery_operator.cluster.kinds import ObjectKey
from bloomery_operator.reconcile.template_updates import MAX_UPDATE_SECONDS, TemplateUpdates

pytestmark = pytest.mark.feature("O4")

ONE, TWO, THREE = (ObjectKey("demo", name) for name in ("one", "two", "three"))


def test_no_more_than_the_limit_are_updated_at_a_time() -> None:
    updates = TemplateUpdates()
    assert updates.begin(ONE, limit=2)
    assert updates.begin(TWO, limit=2)
    assert not updates.begin(THREE, limit=2)
    assert updates.begin(ONE, limit=2), "it is being updated already"
    updates.end(TWO)
    assert updates.begin(THREE, limit=2)


def test_limit_of_0_updates_none() -> None:
    assert not TemplateUpdates().begin(ONE, limit=0)


def test_update_that_never_ends_does_not_hold_up_the_others() -> None:
    now = 0.0
    updates = TemplateUpdates(clock=lambda: now)
    assert updates.begin(ONE, limit=1)
    now = MAX_UPDATE_SECONDS - 1
    assert not updates.begin(TWO, limit=1)
    now = MAX_UPDATE_SECONDS
    assert updates.begin(TWO, limit=1)
