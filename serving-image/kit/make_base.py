"""Makes the parts of offline kits: a folder for each platform and flavour, with all but the model.

Runs where the server and PyInstaller are installed, as kit/Dockerfile has it. The Linux kit for processors holds a
frozen server, which needs no Python; the others hold wheels, of which their start script makes an environment.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

HERE = Path(__file__).parent
PROGRAM = "bloomery-server"
SPARE = ("libstdc++.so.6", "libgcc_s.so.1", "libexpat.so.1")
"""Libraries that nearly every system has, and that ask for a newer glibc than all the rest: start.sh decides."""
UNUSED = r"_(gpu|npu)_plugin|_(jax|paddle|pytorch|tensorflow|tensorflow_lite|gguf)_frontend|^cache\.json$"
"""OpenVINO's libraries for other devices than processors and for other files than ONNX, and the former's kernels."""

_PYTHON = "- Python 3.11, 64 bit, with its module venv."
_GPU = f"""\
{_PYTHON}
- An NVIDIA GPU of the Turing generation (2018) or newer, and a driver for CUDA 13: version 580 or newer. CUDA 13 and
  cuDNN 9 themselves come as wheels. Where no GPU can be used, the processor answers.
- The wheels that requirements.txt names, about 1.6 GB, which are too large to come along. Fetch them once, in this
  folder, on any machine with internet and Python; from then on it needs no internet:

  python -m pip download -r requirements.txt -d wheels -f wheels --no-deps --only-binary :all: --python-version 3.11"""
_MANYLINUX = " ".join(f"--platform manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_17", "2014"))


@dataclass(frozen=True)
class Kit:
    """One kind of kit: its start script, the command that starts it, and its requirements."""

    name: str
    script: str
    start: str
    needs: str

    @property
    def windows(self) -> bool:
        """Whether it is for Windows."""
        return self.name.startswith("windows")


_SH = "    ./start.sh"
_BAT = "Double-click start.bat, or in a console:\n\n    start.bat"
_ONCE = "\n\nThe first start installs the wheels into the folder venv, which takes a minute or two."
_LINUX, _WINDOWS = "- 64-bit Linux (x86_64) with glibc 2.{minor} or newer", "- 64-bit Windows 10 or newer (x64)."
KITS = (
    Kit("linux-cpu", "start-frozen.sh", _SH,
        _LINUX + ", as Debian 12, Ubuntu 22.04, Fedora 36 and RHEL 10 have it. No Python.\n- 500 MB of disk."),
    Kit("linux-nvidia", "start.sh", _SH + _ONCE,
        f"{_LINUX.format(minor=28)}.\n{_GPU} {_MANYLINUX}\n\n- 5 GB of disk."),
    Kit("windows-cpu", "start.bat", _BAT + _ONCE, f"{_WINDOWS}\n{_PYTHON}\n- 900 MB of disk."),
    Kit("windows-nvidia", "start.bat", _BAT + _ONCE,
        f"{_WINDOWS}\n{_GPU} --platform win_amd64\n\n- 5 GB of disk."),
)  # fmt: skip


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to make them")
    parser.add_argument("--own-wheels", type=Path, required=True, help="folder with the wheels of our own packages")
    parser.add_argument("--windows-wheels", type=Path, required=True, help="folder with the wheels of windows-cpu.txt")
    options = parser.parse_args()
    server = options.folder / "linux-cpu" / "server"
    freeze(server)
    facts = {"GLIBC_MINOR": str(needed_glibc(server))}
    for kit in KITS:
        folder = options.folder / kit.name
        if kit.name != "linux-cpu":
            add_wheels(folder, kit.name, sorted(options.own_wheels.glob("*.whl")))
        write_texts(folder, kit, facts)
    shutil.copytree(options.windows_wheels, options.folder / "windows-cpu" / "wheels", dirs_exist_ok=True)


def freeze(folder: Path) -> None:
    """Make a folder with the server, its Python and all that both load."""
    with tempfile.TemporaryDirectory() as scratch:
        collected = [f"--collect-{kind}={name}" for kind, name in (
            ("data", "bloomery_serving"), ("submodules", "bloomery_serving"),
            ("data", "fastapi_offline"), ("submodules", "fastapi_offline"),  # only its files are used
            ("all", "openvino"),  # the server imports it by name
        )]  # fmt: skip
        collected += ["--exclude-module=openvino.tools", "--exclude-module=openvino_telemetry"]
        folders = [f"--distpath={scratch}/dist", f"--workpath={scratch}/work", f"--specpath={scratch}"]
        command = [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level=WARN", f"--name={PROGRAM}"]
        subprocess.run([*command, *collected, *folders, str(HERE / "main.py")], check=True)
        folder.parent.mkdir(parents=True)
        shutil.move(f"{scratch}/dist/{PROGRAM}", folder)
    spare = folder / "spare"
    spare.mkdir()
    for path in list(folder.rglob("*")):
        is_unused = path.parent.match("openvino/libs") and re.search(UNUSED, path.name)
        # Links to libraries that their users find without, and that many a medium could not hold.
        if is_unused or path.is_symlink():
            path.unlink()
        elif path.name in SPARE:
            path.rename(spare / path.name)


def needed_glibc(folder: Path) -> int:
    """Return the minor version of the oldest glibc 2 with all symbols that a system with its own spares needs."""
    versions = [version for path in folder.rglob("*") if path.is_file() and path.parent.name != "spare"
                for version in _symbol_versions(path)]  # fmt: skip
    return max(int(match[1]) for version in versions if (match := re.match(r"GLIBC_2\.(\d+)", version)))


def _symbol_versions(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        try:
            section = ELFFile(file).get_section_by_name(".gnu.version_r")
        except ELFError:  # no program
            return
        for _, needed in section.iter_versions() if section else ():
            yield from (version.name for version in needed)


def add_wheels(folder: Path, name: str, own: Sequence[Path]) -> None:
    """Give a kit our own wheels, and the list of all that it installs."""
    (folder / "wheels").mkdir(parents=True)
    requirements = (HERE / f"{name}.txt").read_text()
    for wheel in own:
        shutil.copy(wheel, folder / "wheels")
        distribution, version = wheel.name.split("-")[:2]
        requirements += f"{distribution.replace('_', '-')}=={version}\n"
    (folder / "requirements.txt").write_text(requirements)


def write_texts(folder: Path, kit: Kit, facts: Mapping[str, str]) -> None:
    """Write the start script and README.txt."""
    program = "start.bat" if kit.windows else "start.sh"
    needs = kit.needs.format(minor=facts["GLIBC_MINOR"])
    texts = facts | {"NEEDS": needs, "START": kit.start, "PROGRAM": program if kit.windows else f"./{program}"}
    for source, target in ((kit.script, program), ("README.txt", "README.txt")):
        text = (HERE / source).read_text(encoding="utf-8")
        for name, value in texts.items():
            text = text.replace(f"@{name}@", value)
        (folder / target).write_text(text, encoding="utf-8", newline="\r\n" if kit.windows else "\n")
    (folder / program).chmod(0o755)


if __name__ == "__main__":
    main()
