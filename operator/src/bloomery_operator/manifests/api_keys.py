"""Secrets of a service: keys for people, their digests for its pods, and the token by which pods ask each other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.labels import SERVE_ROLE
from bloomery_operator.domain.names import comparison_secret_name, digests_secret_name, keys_secret_name
from bloomery_operator.manifests.metadata import child_metadata

COMPARISON_TOKEN_KEY = "token"
DEFAULT_KEY_NAME = "default"


def build_keys_secret(service: InferenceService, key: str) -> Manifest:
    """Return the Secret for people, with a first key; they add, change and remove keys in it."""
    return _opaque_secret(service, keys_secret_name(service), {DEFAULT_KEY_NAME: key})


def build_digests_secret(service: InferenceService, keys: Mapping[str, str]) -> Manifest:
    """Return the Secret for pods: for each key's name the hexadecimal SHA-256 of its value."""
    digests = {name: hashlib.sha256(key.strip().encode()).hexdigest() for name, key in keys.items()}
    return _opaque_secret(service, digests_secret_name(service), digests)


def build_comparison_secret(service: InferenceService, token: str) -> Manifest:
    """Return the Secret with the token by which pods ask each other for the classes of images."""
    return _opaque_secret(service, comparison_secret_name(service), {COMPARISON_TOKEN_KEY: token})


def read_keys(secret: Manifest) -> dict[str, str]:
    """Return the keys of the Secret for people by name, without those that are not text."""
    keys: dict[str, str] = {}
    for name, value in (secret.get("data") or {}).items():
        try:
            keys[name] = base64.b64decode(value).decode().strip()
        except UnicodeDecodeError:
            continue
    return {name: key for name, key in keys.items() if key}


def _opaque_secret(service: InferenceService, name: str, values: Mapping[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": child_metadata(service, name=name, role=SERVE_ROLE),
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
