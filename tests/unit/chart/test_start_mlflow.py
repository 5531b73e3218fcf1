"""The script that starts the bundled MLflow: the variables that it hands on, and its certificates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.authorities import make_authority

SCRIPT = Path(__file__).resolve().parents[3] / "charts/bloomery/files/start_mlflow.py"
PROGRAM = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
"""


def start(folder: Path, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Run the script with a program that prints what it gets; return its arguments and its environment."""
    program = folder / "bin" / "mlflow"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM)
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8"), "--host=", "--port=5000"],
        env={"PATH": f"{program.parent}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    printed = json.loads(done.stdout)
    return printed["arguments"], printed["environment"]


@pytest.mark.feature("O6")
def test_checksums_are_sent_only_where_they_are_required(tmp_path: Path) -> None:
    arguments, environment = start(tmp_path)
    assert arguments == ["server", "--host=", "--port=5000"]
    assert environment["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert environment["AWS_RESPONSE_CHECKSUM_VALIDATION"] == "when_required"
    assert "SSL_CERT_FILE" not in environment


@pytest.mark.feature("O6")
def test_variables_of_the_secret_win_and_lose_their_line_breaks(tmp_path: Path) -> None:
    _, environment = start(
        tmp_path,
        AWS_REQUEST_CHECKSUM_CALCULATION="when_supported",
        AWS_S3_ADDRESSING_STYLE="virtual\n",
        AWS_SECRET_ACCESS_KEY="secret\n",
        MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE="path",
    )
    assert environment["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_supported"
    assert environment["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] == "virtual"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "secret"


@pytest.mark.feature("O6")
def test_private_authorities_are_in_the_bundle_of_every_library(tmp_path: Path) -> None:
    folder = make_authority().write(tmp_path / "tls").folder
    (folder / "bundle.jks").write_bytes(b"\xfe\xed")
    _, environment = start(tmp_path, BLOOMERY_CA_FOLDER=str(folder))
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
    (bundle,) = {environment[name] for name in names}
    content = Path(bundle).read_bytes()
    assert (folder / "ca.crt").read_bytes() in content
    assert b"\xfe\xed" not in content
