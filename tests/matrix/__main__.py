"""Tests of the supported minors of Kubernetes (`make test-matrix`): each with its own API server, one after another.

The API server of a minor is built once, into `.dev/matrix/`, which takes minutes; the kinds' validation, the operator
and the chart, rendered for that minor, are tested with it. Some tests run again with older versions of the Gateway API.
`MINORS=1.30,1.35` chooses minors. A minor whose API server cannot be built with the Go at hand is reported, and is not
tested. Where Go's checksum database cannot be reached, set `GOSUMDB=off`. The last line is one JSON object; the exit
code is 1 if a test failed or nothing was tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev import binaries
from dev.paths import LOGS, ROOT
from dev.stages import StageError, log_path
from dev.versions import KUBERNETES, KUBERNETES_MATRIX

ROUTES = ("tests/component/operator/test_rollouts.py", "tests/component/operator/test_other_gateways.py")
TESTS = (
    "tests/component/test_crd_validation.py",
    "tests/component/chart/test_admission.py",
    "tests/component/chart/test_namespaced.py",
    "tests/component/operator/test_datasets.py",
    "tests/component/operator/test_trainingjob_lifecycle.py",
    "tests/component/operator/test_inferenceservices.py",
    "tests/component/operator/test_pipeline.py",
    "tests/component/operator/test_requests.py",
    "tests/component/operator/test_upgrade.py",
    *ROUTES,
)
GATEWAY_APIS = {"v1.1.0": "neither timeouts nor percent of mirrors", "v1.2.1": "timeouts, no percent of mirrors"}
"""Older versions of the Gateway API, and what their standard HTTPRoutes have."""
PASSED, FAILED, NOT_BUILT = "passed", "failed", "not built"


def minor_of(version: str) -> str:
    """Return the minor of a version, such as 1.34."""
    return version.removeprefix("v").rpartition(".")[0]


def chosen_versions(minors: str) -> list[str]:
    """Return the versions of the chosen minors; all of them without a choice.

    Raises:
        SystemExit: there is no such minor.
    """
    names = [name for name in minors.split(",") if name]
    known = {minor_of(version): version for version in KUBERNETES_MATRIX}
    if unknown := set(names) - set(known):
        raise SystemExit(f"MINORS names {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return [known[name] for name in names or known]


def build(version: str) -> Path | None:
    """Build a version's API server; return its folder, or None if it cannot be built."""
    log = log_path(f"api-server-{version}")
    print(f"== Kubernetes {version}: the API server's log is {log}", flush=True)
    with log.open("w") as output:
        try:
            return binaries.build_api_server(version, output)
        except StageError as error:
            print(f"   it cannot be built: {error}", flush=True)
            return None


def run_tests(paths: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run tests with some variables set; return their result."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not extended", *paths]
    return FAILED if subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode else PASSED


def main() -> int:
    """Test each chosen minor, and the older Gateway APIs; return 1 if a test failed or none ran."""
    versions = chosen_versions(os.environ.get("MINORS", ""))
    LOGS.mkdir(parents=True, exist_ok=True)
    results = {}
    for version in versions:
        folder = build(version)
        variables = {"BLOOMERY_BIN": str(folder), "KUBE_VERSION": version}
        results[version] = NOT_BUILT if folder is None else run_tests(TESTS, variables)
    if KUBERNETES in versions:
        for version, kinds in GATEWAY_APIS.items():
            print(f"== Gateway API {version}: {kinds}", flush=True)
            results[f"Gateway API {version}"] = run_tests(ROUTES, {"GATEWAY_API_VERSION": version})
    print(json.dumps(results))
    return 1 if FAILED in results.values() or PASSED not in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
