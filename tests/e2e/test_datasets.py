"""Datasets as users have them, prepared by real pods from real S3, and read in MLflow as people would."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from testing.cluster_store import class_folders, digit_images, list_files, put_files
from testing.dev_cluster import STORAGE_SECRET, Kubectl, reachable_mlflow

pytestmark = pytest.mark.extended

RAW = "s3://bloomery/raw/e2e-datasets"
NAMES = {"凉皮": 0, "美食/凉皮": 1, "roses": 2}


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    return make_namespace("e2e-datasets")


@pytest.fixture(scope="module")
def images(kubectl: Kubectl) -> dict[str, list[bytes]]:
    return digit_images(NAMES)


def dataset(name: str, uri: str, **spec: Any) -> dict[str, Any]:
    source = {"uri": uri} | spec.pop("source", {})
    return {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": {"source": source} | spec,
    }


def prepared(kubectl: Kubectl, manifest: dict[str, Any]) -> dict[str, Any]:
    """Applies a Dataset, waits for it, and returns its status."""
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr
    name = manifest["metadata"]["name"]
    kubectl.wait(f"dataset/{name}", "Ready", seconds=120)
    status: dict[str, Any] = kubectl.get("dataset", name)["status"]
    return status


def counts(status: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {entry["name"]: (entry["train"], entry["validation"]) for entry in status["classes"]}


@pytest.mark.feature("D1")
@pytest.mark.feature("D5")
@pytest.mark.feature("D6")
@pytest.mark.feature("D11")
@pytest.mark.feature("D13")
def test_split_folders_of_any_script_are_read_with_the_users_keys(
    kubectl: Kubectl, images: dict[str, list[bytes]]
) -> None:
    folders = {name: files[:24] for name, files in images.items()}
    held_out = {name: files[24:] for name, files in images.items()}
    broken = {"train/roses/broken.png": b"no picture", "train/roses/notes.txt": b"remember the milk"}
    files = class_folders(folders, below="train") | class_folders(held_out, below="validation") | broken
    put_files(f"{RAW}/split", files)
    keys = Kubectl("default").secret(STORAGE_SECRET)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
    own = {name: value for name, value in keys.items() if name.startswith("AWS_")}
    assert kubectl.apply(secret | {"stringData": own}).returncode == 0
    status = prepared(
        kubectl,
        dataset("split", f"{RAW}/split", source={"secretRef": {"name": "mine"}}, displayName="陕西小吃 🌷"),
    )

    assert counts(status) == {"roses": (24, 6), "凉皮": (24, 6), "美食/凉皮": (24, 6)}
    assert sum(status["ignored"].values()) == 2
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert "under 100 images a class" in ready["message"]


@pytest.mark.feature("D7")
def test_the_report_is_read_in_mlflow(kubectl: Kubectl) -> None:
    status = kubectl.get("dataset", "split")["status"]
    assert status["report"].endswith("/artifacts/report.html")
    run = status["report"].split("/runs/")[1].split("/")[0]
    with reachable_mlflow() as mlflow:
        answer = httpx.get(f"{mlflow}/get-artifact", params={"path": "report.html", "run_uuid": run}, timeout=30)
    assert answer.status_code == 200, answer.text[:500]
    for words in ("陕西小吃 🌷", "美食/凉皮", "broken.png", "data:image/jpeg;base64,"):
        assert words in answer.text, words


@pytest.mark.feature("D3")
def test_a_flat_folder_of_images_with_a_text_file_beside_each(kubectl: Kubectl, images: dict[str, list[bytes]]) -> None:
    files: dict[str, bytes] = {}
    for label, pictures in images.items():
        for picture in pictures:
            number = len(files) // 2
            files |= {f"{number}.png": picture, f"{number}.txt": f"\ufeff{label}\r\n".encode()}
    put_files(f"{RAW}/pairs", files)
    status = prepared(kubectl, dataset("pairs", f"{RAW}/pairs"))

    assert counts(status) == {"roses": (24, 6), "凉皮": (24, 6), "美食/凉皮": (24, 6)}


@pytest.mark.feature("D2")
@pytest.mark.feature("D4")
@pytest.mark.feature("D9")
@pytest.mark.feature("D13")
def test_a_zip_is_split_and_packed_as_asked(kubectl: Kubectl, images: dict[str, list[bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in class_folders(images, below="snacks").items():
            archive.writestr(path, data)
    put_files(f"{RAW}/zip", {"snacks.zip": buffer.getvalue()})
    split = {"validation": 0.3, "test": 0.1, "seed": 3}
    status = prepared(kubectl, dataset("zip", f"{RAW}/zip/snacks.zip", split=split, shards={"images": 20}))

    assert counts(status) == {"roses": (18, 9), "凉皮": (18, 9), "美食/凉皮": (18, 9)}
    assert [entry["test"] for entry in status["classes"]] == [3, 3, 3]
    shards = {path for path in list_files(status["uri"]) if path.endswith(".tar")}
    assert {path for path in shards if path.startswith("train")} == {f"train-0000{n}.tar" for n in range(3)}


@pytest.mark.feature("D8")
@pytest.mark.feature("D10")
@pytest.mark.feature("D12")
def test_a_changed_dataset_is_a_new_version_beside_the_old(kubectl: Kubectl, images: dict[str, list[bytes]]) -> None:
    put_files(f"{RAW}/first", class_folders({name: files[:22] for name, files in images.items()}))
    put_files(f"{RAW}/later", {f"{n}.png": data for n, data in enumerate(images["roses"][22:])})
    first = prepared(kubectl, dataset("growing", f"{RAW}/first"))
    changed = dataset(
        "growing",
        f"{RAW}/first",
        append=[{"uri": f"{RAW}/later", "class": "roses"}],
        rename={"凉皮": "cold noodles"},
        exclude=["roses/0.png"],
        classes=["roses", "cold noodles"],
    )
    generation = kubectl.get("dataset", "growing")["metadata"]["generation"] + 1
    assert kubectl.apply(changed).returncode == 0
    kubectl("wait", "dataset/growing", f"--for=jsonpath={{.status.observedGeneration}}={generation}", "--timeout=30s")
    kubectl.wait("dataset/growing", "Ready", seconds=120)
    status = kubectl.get("dataset", "growing")["status"]

    assert {name: sum(pair) for name, pair in counts(status).items()} == {"roses": 29, "cold noodles": 22}
    assert [version["ordinal"] for version in status["versions"]] == [2, 1]
    assert status["versions"][1]["version"] == first["version"] != status["version"]
    assert "manifest.json" in list_files(first["uri"])


@pytest.mark.feature("D4")
def test_an_archive_that_would_write_elsewhere_is_refused(kubectl: Kubectl) -> None:
    """The message names the entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../etc/passwd", b"root")
    put_files(f"{RAW}/evil", {"evil.zip": buffer.getvalue()})
    assert kubectl.apply(dataset("evil", f"{RAW}/evil/evil.zip")).returncode == 0
    kubectl("wait", "dataset/evil", "--for=jsonpath={.status.phase}=Failed", "--timeout=90s")
    ready = kubectl.get("dataset", "evil")["status"]["conditions"][0]
    assert "../../etc/passwd" in ready["message"], json.dumps(ready)
