"""The kits that bring wheels: the right ones, all of them, and scripts that their systems can read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.component.kit.conftest import Pack

pytestmark = [pytest.mark.feature("S7"), pytest.mark.extended]

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def kits(base: Path, pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The unpacked kits, by platform and flavour."""
    folder = tmp_path_factory.mktemp("kits")
    unpacked = {}
    for name in ("windows-cpu", "windows-nvidia", "linux-nvidia"):
        platform, flavour = name.split("-")
        done = pack(
            "--base", base, "--platform", platform, "--flavour", flavour, "--output", folder / "kit.zip",
            SERVICE_NAME=name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        with ZipFile(folder / "kit.zip") as archive:
            archive.extractall(folder)
        unpacked[name] = folder / f"{name}-kit"
    return unpacked


def test_windows_kit_holds_every_wheel_and_its_dependencies(kits: dict[str, Path]) -> None:
    kit = kits["windows-cpu"]
    wheels = [path.name for path in (kit / "wheels").iterdir()]
    assert all(re.search(r"-(any|win_amd64)\.whl$", name) for name in wheels), wheels
    assert all(re.search(r"-(cp311|py3|py2\.py3|cp3\d+-abi3)-", name) for name in wheels), wheels
    # What start.bat does, as far as another system can.
    dry = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index", f"--find-links={kit / 'wheels'}",
        "--no-deps", "--platform=win_amd64", "--python-version=3.11", "--only-binary=:all:", f"--target={kit / 'x'}",
        f"--requirement={kit / 'requirements.txt'}",
    ]  # fmt: skip
    done = subprocess.run(dry, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # And with what the wheels themselves say that they need, on Windows.
    resolve = [
        UV, "pip", "compile", "--quiet", "--no-index", f"--find-links={kit / 'wheels'}", "--python-platform=windows",
        "--python-version=3.11", "--only-binary=:all:", "--no-header", "--no-annotate", kit / "requirements.txt",
    ]  # fmt: skip
    done = subprocess.run(resolve, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {line.split("==")[0] for line in done.stdout.splitlines() if "==" in line}
    assert names == {line.split("==")[0] for line in (kit / "requirements.txt").read_text().split()}
    # Without it, onnxruntime does not load on a Windows that never got Microsoft's C++ library.
    assert "msvc-runtime" in names


def test_scripts_and_readme_have_the_line_ends_of_windows(kits: dict[str, Path]) -> None:
    for name in ("windows-cpu", "windows-nvidia"):
        for file in ("start.bat", "README.txt"):
            content = (kits[name] / file).read_bytes()
            assert content.count(b"\n") == content.count(b"\r\n") > 20
            assert b"@" not in content.replace(b"@echo off", b"").replace(b"image=@photo.jpg", b"")
            content.decode("ascii")
        script = (kits[name] / "start.bat").read_text()
        labels = set(re.findall(r"^:(\w+)$", script, re.MULTILINE))
        assert set(re.findall(r"goto (\w+)", script)) <= labels


def test_nvidia_kits_list_onnxruntime_for_cuda_in_place_of_the_other(kits: dict[str, Path]) -> None:
    for name in ("windows-nvidia", "linux-nvidia"):
        lines = (kits[name] / "requirements.txt").read_text().split()
        assert any(line.startswith("onnxruntime-gpu==") for line in lines)
        assert any(line.startswith("nvidia-cudnn-cu13==") for line in lines)
        assert not any(line.startswith("onnxruntime==") for line in lines)
        assert ("uvloop" in str(lines)) is (name == "linux-nvidia")
        readme = (kits[name] / "README.txt").read_text()
        assert "CUDA 13: version 580 or newer" in readme
        assert "python -m pip download -r requirements.txt" in readme


def test_nvidia_kit_without_wheels_points_to_its_readme(kits: dict[str, Path]) -> None:
    kit = kits["linux-nvidia"]
    done = subprocess.run(["sh", kit / "start.sh"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "The folder wheels lacks what the line above names: README.txt says how to fetch it." in done.stderr


def test_kit_without_python_names_the_version(kits: dict[str, Path], tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", kits["linux-nvidia"] / "start.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "This kit needs Python 3.11, which is not installed here (or not on the PATH).\n"
