"""Builds Kubernetes and its companions with Go, each once for a version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from dev.paths import BIN, ROOT, STATE
from dev.stages import StageError, run
from dev.versions import ENVOY_GATEWAY, KUBECONFORM, KUBERNETES, KWOK, TRAINING_OPERATOR, VERSITYGW

GO = ROOT / "dev" / "go"

KUBERNETES_COMMANDS = (
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kubectl",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kube-proxy",
    "k8s.io/kubernetes/cmd/kubelet",
    "helm.sh/helm/v3/cmd/helm",
    "./coredns",
    "./pause",
)
_STAGING_FOLDERS = "./staging/"
"""Folders of Kubernetes' repository with its libraries, each of which is published as a module of its own."""


def build_kubernetes(log: TextIO) -> None:
    """Build the control plane, the node's parts, kubectl, helm, CoreDNS and pause: they share one client-go."""
    _build(KUBERNETES_COMMANDS, log, module=GO / "kubernetes", flags=_version_flags(KUBERNETES))


def build_api_server(version: str, log: TextIO) -> Path:
    """Build the API server of another version of Kubernetes, in a folder of its own; return the folder."""
    if version == KUBERNETES:
        return BIN
    folder, flags = STATE / "matrix" / version, _version_flags(version)
    if _is_current("kube-apiserver", version, ["kube-apiserver"], folder=folder):
        return folder
    module = folder / "module"
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(_api_server_module(version))
    command = ("k8s.io/kubernetes/cmd/kube-apiserver",)
    # The module's requirements are Kubernetes' own, which the build adds to it.
    _compile(command, log, module=module, flags=flags, folder=folder, options=("-mod=mod",))
    _stamp_file("kube-apiserver", folder).write_text(version)
    return folder


def _api_server_module(version: str) -> str:
    """Return the go.mod of a module that builds a version's API server, with the libraries of the same version."""
    downloaded = json.loads(_go_output("mod", "download", "-json", f"k8s.io/kubernetes@{version}"))
    described = json.loads(_go_output("mod", "edit", "-json", downloaded["GoMod"]))
    libraries = [r["Old"]["Path"] for r in described["Replace"] if r["New"]["Path"].startswith(_STAGING_FOLDERS)]
    lines = ["module bloomery.dev/dev/matrix", f"go {described['Go']}", f"require k8s.io/kubernetes {version}"]
    lines += [f"replace {library} => {library} {version.replace('v1.', 'v0.', 1)}" for library in libraries]
    return "\n".join(lines) + "\n"


def _version_flags(version: str) -> list[str]:
    """Return the linker's flags that write a version of Kubernetes into its programs."""
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items()]
    return [*flags, f"-X k8s.io/client-go/pkg/version.gitVersion={version}"]


def build_buildkit(log: TextIO) -> None:
    """Build the image builder."""
    commands = ("github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl")
    _build(commands, log, module=GO / "buildkit")


def build_envoy_gateway(log: TextIO) -> None:
    """Build Envoy Gateway's control plane."""
    _install(f"github.com/envoyproxy/gateway/cmd/envoy-gateway@{ENVOY_GATEWAY}", log)


def build_versitygw(log: TextIO) -> None:
    """Build the S3 server over a folder."""
    _install(f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}", log)


def build_kubeconform(log: TextIO) -> None:
    """Build the checker of manifests against schemas, which the chart's tests use."""
    _install(f"github.com/yannh/kubeconform/cmd/kubeconform@{KUBECONFORM}", log)


def build_kwok(log: TextIO) -> None:
    """Build what plays nodes and their pods, for the operator's benchmark."""
    _install(f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}", log)


def build_training_operator(log: TextIO) -> None:
    """Build the operator that ours is measured beside."""
    _install(f"github.com/kubeflow/training-operator/cmd/training-operator.v1@{TRAINING_OPERATOR}", log)


def module_folder(module: str, version: str) -> Path:
    """Return where Go keeps a downloaded module."""
    cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(cache) / f"{module}@{version}"


def _build(commands: Sequence[str], log: TextIO, *, module: Path, flags: Sequence[str] = ()) -> None:
    content = b"".join(path.read_bytes() for path in sorted(module.rglob("*")) if path.is_file())
    stamp = hashlib.sha256(content + " ".join([*commands, *flags]).encode()).hexdigest()
    names = [command.rpartition("/")[2] for command in commands]
    if _is_current(module.name, stamp, names):
        return
    _compile(commands, log, module=module, flags=flags)
    _stamp_file(module.name).write_text(stamp)


def _compile(
    commands: Sequence[str],
    log: TextIO,
    *,
    module: Path,
    flags: Sequence[str],
    folder: Path = BIN,
    options: Sequence[str] = (),
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    linker = " ".join(["-s", "-w", *flags])
    command = ["go", "build", *options, "-trimpath", "-ldflags", linker, "-o", f"{folder}/", *commands]
    run(command, log, cwd=module, env=_go())


def _install(command: str, log: TextIO) -> None:
    name = command.rpartition("/")[2].partition("@")[0]
    if _is_current(name, command, [name]):
        return
    BIN.mkdir(parents=True, exist_ok=True)
    run(["go", "install", "-trimpath", "-ldflags", "-s -w", command], log, env=_go() | {"GOBIN": str(BIN)})
    _stamp_file(name).write_text(command)


def _is_current(name: str, stamp: str, binaries: Sequence[str], folder: Path = BIN) -> bool:
    file = _stamp_file(name, folder)
    return file.exists() and file.read_text() == stamp and all((folder / binary).exists() for binary in binaries)


def _stamp_file(name: str, folder: Path = BIN) -> Path:
    return folder / f".{name}.version"


def _go_output(*words: str) -> str:
    done = subprocess.run(["go", *words], capture_output=True, text=True, env=_go(), cwd="/", check=False)
    if done.returncode:
        raise StageError(f"go {' '.join(words[:2])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _go() -> dict[str, str]:
    """Return the environment that Go builds in."""
    if shutil.which("go") is None:
        raise StageError("Go is missing: install Go 1.26 or newer (https://go.dev/dl) and put it on PATH")
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
