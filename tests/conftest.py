"""Isolation of the environment variables of each test, and the groups that one process runs in turn (pytest-xdist)."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any
from unittest.mock import patch

import pytest

FOLDERS = ("tests/e2e", "tests/component/mlflow", "tests/component/kit")
"""Folders whose tests share one cluster, or a server, a training or a kit that takes minutes to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each of these folders to one process, and the other tests by file."""
    from xdist.scheduler import LoadScopeScheduling  # a machine with a GPU may have pytest alone

    class FolderScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), path)

    return FolderScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Take back what a test wrote into the environment of this process, as MLflow's ``set_tracking_uri`` does."""
    with patch.dict(os.environ):
        return (yield)
