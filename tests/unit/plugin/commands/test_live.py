"""The command ``live``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubectl_bloomery.commands.live import format_age


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("since", "shown"),
    [("2026-01-01T00:00:00Z", "9d"), ("2026-01-09T13:00:00Z", "23h"), ("2026-01-10T11:58:30Z", "90s")],
)
def test_age_has_kubectls_format(since: str, shown: str) -> None:
    assert format_age(since, datetime(2026, 1, 10, 12, tzinfo=UTC)) == shown
