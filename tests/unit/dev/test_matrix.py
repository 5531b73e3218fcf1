"""The minors of Kubernetes that `make test-matrix` tests, and the modules that their API servers are built in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dev import binaries, versions
from dev.paths import ROOT
from testing.gateway_api import GATEWAY_API
from tests.matrix.__main__ import TESTS, chosen_versions, minor_of


def test_matrix_has_every_minor_from_the_charts_oldest_one_on() -> None:
    minors = [tuple(map(int, minor_of(version).split("."))) for version in versions.KUBERNETES_MATRIX]
    oldest = yaml.safe_load((ROOT / "charts/bloomery/Chart.yaml").read_text())["kubeVersion"]
    assert oldest == f">={minors[0][0]}.{minors[0][1]}.0-0"
    assert minors == [(1, minor) for minor in range(minors[0][1], minors[-1][1] + 1)]
    assert versions.KUBERNETES in versions.KUBERNETES_MATRIX


def test_versions_that_the_installation_page_names_are_those_of_the_tests() -> None:
    gateway_api, envoy = GATEWAY_API.rpartition("@v")[2], versions.ENVOY_GATEWAY.removeprefix("v")
    words = [minor_of(versions.KUBERNETES), minor_of(gateway_api), minor_of(envoy)]
    sentence = "All tests run with Kubernetes {}, Gateway API {} and Envoy Gateway {}.".format(*words)
    assert sentence in (ROOT / "docs/install.md").read_text(encoding="utf-8")


def test_tests_of_the_matrix_are_there() -> None:
    assert [path for path in TESTS if not (ROOT / path).is_file()] == []


def test_chosen_minors_are_those_of_the_variable() -> None:
    assert chosen_versions("") == list(versions.KUBERNETES_MATRIX)
    assert [minor_of(version) for version in chosen_versions("1.30,1.34")] == ["1.30", "1.34"]
    with pytest.raises(SystemExit, match=r"1\.29"):
        chosen_versions("1.29")


def test_own_version_is_not_built_again(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        assert binaries.build_api_server(versions.KUBERNETES, log) == binaries.BIN


def test_api_server_is_built_with_the_libraries_of_its_own_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Go describes Kubernetes' module and writes the program, as Go would."""
    replaced = [("k8s.io/api", "./staging/src/k8s.io/api"), ("example.com/fork", "example.com/other")]
    described = {
        "Go": "1.22.0",
        "Replace": [{"Old": {"Path": old}, "New": {"Path": new}} for old, new in replaced],
    }
    (tmp_path / "described.json").write_text(json.dumps(described))
    (tmp_path / "go").write_text(
        f"""#!/bin/sh
case "$*" in
"mod download -json k8s.io/kubernetes@v1.30.14") echo '{{"GoMod": "k8s.mod"}}' ;;
"mod edit -json k8s.mod") cat {tmp_path}/described.json ;;
build*) echo "$*" >> {tmp_path}/builds; touch {tmp_path}/matrix/v1.30.14/kube-apiserver ;;
*) exit 1 ;;
esac
"""
    )
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(binaries, "STATE", tmp_path)
    with (tmp_path / "log").open("w") as log:
        folders = {binaries.build_api_server("v1.30.14", log) for _ in range(2)}

    assert folders == {tmp_path / "matrix" / "v1.30.14"}
    module = (tmp_path / "matrix" / "v1.30.14" / "module" / "go.mod").read_text()
    assert module.splitlines() == [
        "module bloomery.dev/dev/matrix",
        "go 1.22.0",
        "require k8s.io/kubernetes v1.30.14",
        "replace k8s.io/api => k8s.io/api v0.30.14",
    ]
    builds = (tmp_path / "builds").read_text().splitlines()
    assert len(builds) == 1, "the second time it was there"
    assert "component-base/version.gitVersion=v1.30.14" in builds[0]
    assert builds[0].endswith("k8s.io/kubernetes/cmd/kube-apiserver")
