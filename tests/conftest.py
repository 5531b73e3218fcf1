"""Groups of tests that one process runs in turn, where several processes share the tests (pytest-xdist)."""

from __future__ import annotations

from typing import Any

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
