"""The pure parts of the development cluster."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from string import Template

import pytest

from dev import __main__ as commands
from dev import images, paths, versions
from dev.teardown import without_ours

RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X
COMMIT
"""


def test_the_machines_own_rules_stay() -> None:
    assert without_ours(RULES) == (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n"
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n"
    )


def test_an_image_is_known_by_where_its_files_are_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BASE", tmp_path)
    (tmp_path / "index.json").write_text("{}")
    folder = tmp_path / "image"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    (folder / "a" / "file").write_text("x")
    (folder / "Dockerfile").write_text("FROM scratch")
    before = images._content_hash(images.Image("image", folder))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "file.pyc").write_text("x")
    assert images._content_hash(images.Image("image", folder)) == before
    (folder / "a" / "file").rename(folder / "b" / "file")
    assert images._content_hash(images.Image("image", folder)) != before


def test_an_earlier_releases_image_is_recognised_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BASE", tmp_path)
    (tmp_path / "index.json").write_text("{}")
    made = []
    for checkout in ("first", "second"):
        folder = tmp_path / checkout / "operator"
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text("FROM scratch")
        made.append(images.Image("operator", folder, tag="0.1"))
    first, second = made
    assert (images._content_hash(first), first.stamp) == (images._content_hash(second), second.stamp)
    assert first.reference == "localhost/bloomery/operator:0.1"
    assert first.stamp != images.by_name("operator").stamp


def copied_paths(image: images.Image) -> list[str]:
    """Return what its Dockerfile copies of its context."""
    arguments, copied = dict(image.arguments), []
    for line in (image.folder / image.dockerfile).read_text().splitlines():
        word, *rest = line.split() or [""]
        if word == "ARG":
            name, _, default = rest[0].partition("=")
            arguments.setdefault(name, default)
        if word == "COPY" and not rest[0].startswith("--from"):
            copied += [Template(path).substitute(arguments) for path in rest[:-1]]
    return copied


@pytest.mark.parametrize("image", (*images.OUR_IMAGES, *images.ON_DEMAND_IMAGES), ids=lambda image: image.name)
def test_image_is_built_again_where_anything_that_it_copies_changes(image: images.Image) -> None:
    copied = copied_paths(image)
    assert copied
    assert all((image.folder / path).exists() for path in copied)
    files = {image.folder / path for path in copied if (image.folder / path).is_file()}
    files |= {file for path in copied for file in (image.folder / path).rglob("*.py")}
    assert files <= set(images._copied(image))


@pytest.mark.parametrize("image", (*images.OUR_IMAGES, *images.ON_DEMAND_IMAGES), ids=lambda image: image.name)
def test_folders_in_the_repositorys_context_are_those_of_the_images(image: images.Image) -> None:
    lines = (paths.ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    if image.folder == paths.ROOT:
        assert {path.partition("/")[0] for path in copied_paths(image)} <= sent
    assert "*" in lines


def test_a_stage_needs_only_stages_that_are_there() -> None:
    stages = commands.cluster_stages()
    names = [stage.name for stage in stages]
    assert len(names) == len(set(names))
    assert {need for stage in stages for need in stage.needs} <= set(names)


def test_the_version_in_the_binaries_is_that_of_the_module() -> None:
    module = (paths.ROOT / "dev" / "go" / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {versions.KUBERNETES}\n" in module
    assert f"k8s.io/client-go {versions.KUBERNETES.replace('v1.', 'v0.')}\n" in module


def test_ones_own_cluster_needs_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER", "current")
    monkeypatch.delenv("REGISTRY", raising=False)
    with pytest.raises(SystemExit, match="REGISTRY"):
        paths.target()
    monkeypatch.setenv("REGISTRY", "registry.example/bloomery/")
    monkeypatch.setenv("TAG", "1.2")
    assert paths.target().image("operator") == "registry.example/bloomery/operator:1.2"
    assert paths.target().kubeconfig is None


@pytest.mark.parametrize("path", sorted(Path(paths.ROOT, "dev").glob("*.py")), ids=lambda path: path.name)
def test_only_the_standard_library_is_imported(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "dev"}
