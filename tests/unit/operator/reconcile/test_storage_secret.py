"""The Secret with addresses and credentials, as the operator reads it."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace
from typing import Any

import pytest

from bloomery_operator.reconcile.lookups import read_storage_secret
from tests.unit.operator.samples import settings


@pytest.mark.feature("O6")
def test_white_space_around_a_value_is_ignored() -> None:
    values = {"MLFLOW_TRACKING_URI": "http://mlflow:5000\n", "MLFLOW_TRACKING_TOKEN": " token \r\n"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}

    async def get(*_: Any) -> dict[str, Any]:
        return {"data": data}

    context: Any = SimpleNamespace(cluster=SimpleNamespace(get=get), settings=settings())
    assert asyncio.run(read_storage_secret(context, "team")) == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_TOKEN": "token",
    }
