"""Groups of tests that one process runs in turn, where several processes share the tests (pytest-xdist)."""

from __future__ import annotations

import pytest

FOLDERS = ("tests/e2e", "tests/component/mlflow", "tests/component/kit")
"""Folders whose tests share one cluster, or a server, a training or a kit that takes minutes to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each of these folders to one process, and the other tests by file."""
    if not config.pluginmanager.hasplugin("xdist"):
        return  # a machine with a GPU may have nothing but pytest
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        folder = next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), None)
        item.add_marker(pytest.mark.xdist_group(folder or path))
