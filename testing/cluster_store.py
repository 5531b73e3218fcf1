"""Files in the store of the dev cluster, and small images of scikit-learn's handwritten digits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import obstore
from obstore.store import S3Store
from PIL import Image
from sklearn.datasets import load_digits

from dev import demo
from dev.paths import LOGS
from testing.dev_cluster import STORAGE_SECRET, Kubectl


def digit_images(names: Mapping[str, int], *, each: int = 30) -> dict[str, list[bytes]]:
    """Return PNG files of 40 × 40 pixels by class name; ``names`` maps each class to a digit."""
    data = load_digits()

    def png(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((40, 40)).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    return {name: [png(pixels) for pixels in data.images[data.target == digit][:each]] for name, digit in names.items()}


@contextmanager
def store(uri: str) -> Iterator[S3Store]:
    """Open the cluster's object store below ``uri`` through a port-forward."""
    keys = Kubectl("default").secret(STORAGE_SECRET)
    with (
        (LOGS / "e2e-store.log").open("a") as log,
        demo.reachable(keys["AWS_ENDPOINT_URL"], log) as endpoint,
    ):
        yield S3Store.from_url(
            uri,
            access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            endpoint=endpoint,
            region=keys.get("AWS_REGION", "us-east-1"),
            client_options={"allow_http": True},
        )


def put_files(uri: str, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below ``uri``."""
    with store(uri) as target:
        for path, data in files.items():
            obstore.put(target, path, data)


def list_files(uri: str) -> set[str]:
    """Return the paths of all files below ``uri``."""
    with store(uri) as source:
        return {entry["path"] for page in obstore.list(source) for entry in page}


def remove_files(uri: str) -> None:
    """Remove all files below ``uri``, such as the files of an earlier run."""
    with store(uri) as target:
        obstore.delete(target, [entry["path"] for page in obstore.list(target) for entry in page])


def read_file(uri: str, path: str) -> bytes:
    """Return one file below ``uri``."""
    with store(uri) as source:
        return bytes(obstore.get(source, path).bytes())


def class_folders(images: Mapping[str, list[bytes]], *, below: str = "") -> dict[str, bytes]:
    """Return the files of a folder for each class."""
    prefix = f"{below}/" if below else ""
    return {f"{prefix}{name}/{n}.png": data for name, files in images.items() for n, data in enumerate(files)}


def processors() -> int:
    """Return the number of processors, the upper limit of a pod's request."""
    return len(os.sched_getaffinity(0))
