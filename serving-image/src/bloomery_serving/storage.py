"""Fetches a model folder and checks every byte of it against its own digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from bloomery_serving.errors import ModelError

if TYPE_CHECKING:
    from obstore.store import S3Config

SERVED_FILES = ("model.onnx", "labels.txt", "preprocess.json")
"""What serving needs of a model folder; the weights for further training stay where they are."""

CHUNK_BYTES = 8 * 1024 * 1024


def fetch_model(uri: str, folder: Path, *, digest: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Bring the model's files into ``folder`` and return its metadata.json, with ``digest`` added.

    Raises:
        ModelError: the folder can not be read, or a digest does not match; names the file and both digests.
    """
    store = _open(uri, os.environ if environment is None else environment)
    try:
        metadata: dict[str, Any] = json.loads(bytes(obstore.get(store, "metadata.json").bytes()))
        files: dict[str, str] = metadata["files"]
        actual = model_digest(files)
        if digest and digest != actual:
            raise ModelError(
                "DigestMismatch", f"The model at {uri} has the digest {actual}, but {digest} is asked for."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in SERVED_FILES:
            _fetch(store, uri, name, folder / name, files.get(name, "none"))
    except FileNotFoundError as error:
        raise ModelError("ModelNotFound", f"There is no model at {uri}: {_first_line(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("NotAModel", f"metadata.json at {uri} is not that of a model: {error!r}") from error
    except (BaseError, OSError) as error:
        raise ModelError("StoreUnavailable", f"The model at {uri} can not be read: {_first_line(error)}") from error
    return metadata | {"digest": actual}


def model_digest(files: Mapping[str, str]) -> str:
    """Return a model's digest: that of the canonical JSON of its files' digests."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _fetch(store: S3Store | LocalStore, uri: str, name: str, target: Path, digest: str) -> None:
    if target.exists() and _digest_of(target) == digest:
        return
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        for chunk in obstore.get(store, name).stream(min_chunk_size=CHUNK_BYTES):
            file.write(chunk)
    actual = _digest_of(partial)
    if actual != digest:
        partial.unlink()
        message = f"{name} at {uri} has the digest {actual}, but metadata.json says {digest}."
        raise ModelError("DigestMismatch", message)
    partial.rename(target)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _open(uri: str, environment: Mapping[str, str]) -> S3Store | LocalStore:
    parts = urlsplit(uri)
    if parts.scheme == "file" and Path(parts.path).is_dir():
        return LocalStore(parts.path)
    if parts.scheme == "file":
        raise ModelError("ModelNotFound", f"There is no folder {parts.path}.")
    if parts.scheme != "s3" or not parts.netloc:
        raise ModelError("BadModelURI", f"MODEL_URI is {uri!r}; it must be s3://BUCKET/PREFIX or file:///FOLDER.")
    endpoint = environment.get("AWS_ENDPOINT_URL") or None
    key = environment.get("AWS_ACCESS_KEY_ID") or None
    options: S3Config = {
        "region": environment.get("AWS_REGION") or "us-east-1",
        "virtual_hosted_style_request": False,
    }
    if endpoint:
        options["endpoint"] = endpoint
    if key:
        options["access_key_id"] = key
        options["secret_access_key"] = environment.get("AWS_SECRET_ACCESS_KEY", "")
    else:
        options["skip_signature"] = True
    plain = (endpoint or "").startswith("http://")
    return S3Store(
        parts.netloc, prefix=parts.path.strip("/") or None, config=options, client_options={"allow_http": plain}
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
