"""One cluster a machine: which checkout's it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dev import node, processes
from dev.stages import StageError


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return another checkout, whose cluster was the last on this machine."""
    checkout = tmp_path / "other"
    (checkout / ".dev" / "pids").mkdir(parents=True)
    (checkout / "Makefile").write_text("cluster-down:\n\t@rm -r .dev/pids\n")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(node, "RUN", tmp_path / "run")
    monkeypatch.setattr(node, "OWNER", tmp_path / "run" / "checkout")
    node.OWNER.write_text(str(checkout))
    return checkout


def note(checkout: Path, daemon: str) -> None:
    (checkout / ".dev" / "pids" / "containerd").write_text(daemon)


def test_a_running_cluster_of_another_checkout_is_left_alone_and_named(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PIDS", other / ".dev" / "pids")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    processes.start("containerd", ["sleep", "60"])
    try:
        with pytest.raises(StageError, match=rf"make -C {other} cluster-down ends it"):
            node.claim_machine()
        assert node.OWNER.read_text() == str(other)
    finally:
        processes.stop("containerd")


def test_another_checkouts_dead_cluster_is_removed_by_its_own_command(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note(other, "1 0 digest")
    node.claim_machine()
    assert node.OWNER.read_text() == str(node.ROOT)
    assert not (other / ".dev" / "pids").exists()
    assert f"The cluster of {other} is dead" in capsys.readouterr().out


def test_remains_that_cannot_be_removed_are_reported_with_the_reason(other: Path) -> None:
    note(other, "1 0 digest")
    (other / "Makefile").write_text("cluster-down:\n\t@echo still mounted >&2; exit 1\n")
    with pytest.raises(StageError, match=r"in the way: still mounted"):
        node.claim_machine()
    assert node.OWNER.read_text() == str(other)


def test_a_checkout_that_is_gone_claims_nothing(other: Path) -> None:
    (other / ".dev" / "pids").rmdir()
    node.claim_machine()
    assert node.OWNER.read_text() == str(node.ROOT)


@pytest.mark.parametrize(
    ("free", "is_built", "size"), [(29e9, False, "29 GB"), (29e9, True, None), (7e9, True, "7 GB")]
)
def test_disk_that_is_too_small_is_reported_first(
    free: float, is_built: bool, size: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "STATE", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    if is_built:
        (tmp_path / "images").mkdir()
    shortage = node.disk_shortage()
    assert (shortage is None) if size is None else shortage is not None and f"Only {size} are free" in shortage
