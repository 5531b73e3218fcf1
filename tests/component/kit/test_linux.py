"""The Linux kit where there is nothing: a root with a shell and glibc, no Python, no network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.feature("S7"), pytest.mark.extended]

START_SECONDS = 60.0
FILES = ("upload/upload.js", "upload/upload.css", "docs/swagger-ui-bundle.js")
"""The files that the pages load."""
GLIBC = "ld-linux-x86-64.so.2 libc.so.6 libdl.so.2 libm.so.6 libpthread.so.0 libresolv.so.2 librt.so.1 libutil.so.1"
CLIENT = """
import json, sys
import httpx
address = "http://127.0.0.1:8987"
with open(sys.argv[1], "rb") as file:
    answer = httpx.post(f"{address}/predict", files={"image": file}, timeout=30)
page = httpx.get(f"{address}/upload")
files = [httpx.get(f"{address}/{path}").status_code for path in sys.argv[2:]]
print(json.dumps({"label": answer.json()["label"], "run": answer.headers["x-run-id"], "page": page.text,
                  "status": page.status_code, "files": files, "docs": httpx.get(f"{address}/docs").status_code}))
"""


@pytest.fixture
def bare_root(linux_zip: Path, tmp_path: Path) -> Path:
    """A root file system of glibc, a shell and the unpacked kit."""
    root = tmp_path / "root"
    libraries = root / "lib" / "x86_64-linux-gnu"
    for folder in (libraries, root / "lib64", root / "bin", root / "proc", root / "tmp", root / "dev"):
        folder.mkdir(parents=True)
    for name in GLIBC.split():
        shutil.copy(f"/lib/x86_64-linux-gnu/{name}", libraries / name)
    shutil.copy(libraries / "ld-linux-x86-64.so.2", root / "lib64")
    shutil.copy("/bin/dash", root / "bin" / "sh")
    subprocess.run(["unzip", "-q", linux_zip, "-d", root], check=True)
    return root


def test_it_starts_and_answers_without_python_and_without_network(
    bare_root: Path, picture: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    inner = f"exec unshare --mount --pid --fork --kill-child --root={bare_root} --mount-proc /colours-kit/start.sh"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", f"ip link set lo up && {inner}"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(process, log, "Open http://localhost:8987/upload in a browser. Ctrl+C stops the server.")
        script = ["nsenter", f"--net=/proc/{process.pid}/ns/net", sys.executable, "-c", CLIENT, str(picture), *FILES]
        done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr + log.read_text()
        report = json.loads(done.stdout)
        assert (report["label"], report["run"], report["status"], report["docs"]) == ("green", "r1", 200, 200)
        # The pages take their files from the kit too, and nothing else has anything to say.
        assert report["files"] == [200] * len(FILES)
        assert "http://" not in re.sub(r"http://(localhost|www\.w3\.org)", "", report["page"])
        assert [line.split()[0] for line in log.read_text().splitlines()] == ["Loading", "Open"]
    finally:
        # The server goes with it (--kill-child).
        process.kill()
        process.wait(20)


def test_glibc_of_the_readme_is_the_newest_of_all_files(bare_root: Path) -> None:
    folder = bare_root / "colours-kit"
    named = re.search(r"glibc 2\.(\d+) or newer", (folder / "README.txt").read_text())
    assert named
    minors = set()
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "spare":
            minors.update(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)(?![\d.])", path.read_bytes()))
    assert int(named[1]) == max(minors)


def test_kit_needs_no_links_or_modes_that_a_usb_stick_loses(bare_root: Path) -> None:
    assert not [path for path in (bare_root / "colours-kit").rglob("*") if path.is_symlink()]


def test_older_glibc_is_reported(bare_root: Path) -> None:
    fake = bare_root.parent / "bin"
    fake.mkdir()
    (fake / "getconf").write_text("#!/bin/sh\necho glibc 2.17\n")
    (fake / "getconf").chmod(0o755)
    done = subprocess.run(
        [bare_root / "colours-kit" / "start.sh"],
        env={"PATH": f"{fake}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"This kit needs glibc 2\.\d+ or newer; this system has glibc 2\.17\.\n", done.stderr)


def _wait_for(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    end = time.monotonic() + START_SECONDS
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
