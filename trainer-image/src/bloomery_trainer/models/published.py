"""Finding published weights: pushed to the store, kept in the store, on local disk, or at torchvision's address.

Below the folder ``publishedWeights.uri`` lie:

- ``PRESET/<file>`` with ``PRESET/weights.json``, written by ``kubectl bloomery weights push``; they come first. The
  document has the file's name, its sha256, when it was pushed and how many values it holds.
- torchvision's files under their own names. The eight hex digits in such a name begin the file's sha256, as
  ``torch.hub`` checks them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import torch
import torchvision  # type: ignore[import-untyped]

from bloomery_trainer.config import PublishedWeights
from bloomery_trainer.errors import BadConfig, TrainerError, Unavailable
from bloomery_trainer.models.presets import ALIASES, PRESETS
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

MANIFEST = "weights.json"
"""Describes the pushed file of a preset; written last, so that it names a complete file."""

ANSWER_SECONDS = 8.0
"""The time for the server of published weights to answer, if training can go on without them."""

PATIENT_ANSWER_SECONDS = 30.0
"""The same where it cannot."""

_DOWNLOAD_SECONDS = 900.0
_MAX_BYTES = 1024**3
_CHUNK_BYTES = 1024**2
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")

OpenFolder = Callable[[str], Folder]


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One of torchvision's weight files.

    Attributes:
        weights: torchvision's name of the weights, such as IMAGENET1K_V1.
        preset: the preset that they are for, as the configuration names it.
        url: torchvision's address.
        classes: the names of the classes, in the order of the head's rows.
    """

    weights: str
    preset: str
    url: str
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]

    def matches(self, name: str, sha256: str) -> bool:
        """Return whether a file of that name and digest is this one."""
        expected = _HASH.search(self.name)
        return name == self.name and expected is not None and sha256.startswith(expected.group(1))


@dataclass(frozen=True, kw_only=True)
class LocalWeights:
    """A checked weight file in the scratch folder or on local disk.

    Attributes:
        classes: the names of its classes; empty where they are not known.
        temporary: whether the file is to be removed once it is read.
    """

    path: Path
    kind: Literal["Published", "Pushed"]
    origin: str
    where: str
    classes: tuple[str, ...] = ()
    temporary: bool = True


@dataclass(frozen=True, kw_only=True)
class NotFound:
    """The sources that do not have the weights, in words.

    Attributes:
        unreachable: whether a source did not answer, so that trying again may help.
    """

    sources: tuple[str, ...]
    unreachable: bool


def published_file(preset: str, name: str) -> PublishedFile:
    """Look up torchvision's weights of a preset by name, or its DEFAULT.

    Raises:
        BadConfig: WeightsNotFound, with the names that exist.
    """
    known = torchvision.models.get_model_weights(PRESETS[preset].architecture)
    weights = known.DEFAULT if name == "DEFAULT" else known.__members__.get(name)
    if weights is None:
        names = ", ".join(known.__members__)
        raise BadConfig("WeightsNotFound", f"torchvision has no weights {name!r} for {preset}; it has {names}, DEFAULT")
    return PublishedFile(
        weights=weights.name, preset=preset, url=weights.url, classes=tuple(weights.meta["categories"])
    )


def same_network(preset: str) -> tuple[str, ...]:
    """Return all names of a preset's network, its own first: ``general`` is ``resnet50`` too."""
    network = ALIASES.get(preset, preset)
    names = [preset, network, *(alias for alias, target in ALIASES.items() if target == network)]
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class WeightsFinder:
    """Looks for one published file in all its sources.

    Attributes:
        file: what is looked for.
        any_pushed: whether any pushed file of the preset will do; else only one that is ``file``.
        settings: the store's folder, and whether downloading is allowed.
        open_folder: opens a folder of the store.
        scratch: a local folder for files.
        answer_seconds: how long torchvision's server may take to answer.
    """

    file: PublishedFile
    any_pushed: bool
    settings: PublishedWeights
    open_folder: OpenFolder
    scratch: Path
    answer_seconds: float = ANSWER_SECONDS

    def find(self) -> LocalWeights | NotFound:
        """Fetch and check the file from the first source that has it.

        Raises:
            BadConfig: InvalidCheckpoint, where a source has a file whose digest is not the expected one.
            Unavailable: the store does not answer.
        """
        stored = self._stored()
        if isinstance(stored, LocalWeights):
            return stored
        cached = self._cached()
        if cached is not None:
            return cached
        if not self.settings.download:
            return NotFound(sources=(*stored, "downloads are switched off"), unreachable=False)
        path = self.scratch / self.file.name
        try:
            sha256 = download(self.file.url, path, answer_seconds=self.answer_seconds)
            if not self.file.matches(self.file.name, sha256):
                raise OSError("what it answers is another file")
        except OSError as error:
            path.unlink(missing_ok=True)
            return NotFound(sources=(*stored, f"{self.file.url} cannot be had ({error})"), unreachable=True)
        self._keep(path)
        return self._published(path, where=self.file.url)

    def _stored(self) -> LocalWeights | tuple[str, ...]:
        """Return the file in the store, or where it was looked for there."""
        uri = self.settings.uri
        if uri is None:
            return ()
        try:
            folder = self.open_folder(uri)
            return self._pushed(folder) or self._stored_by_name(folder)
        except FileNotFoundError:
            return (f"{uri} has neither pushed weights nor {self.file.name}",)
        except BadConfig as error:
            if error.reason == "InvalidCheckpoint":
                raise
            # Keys that may not read this folder, or a folder that nothing was put into yet: other sources remain.
            return (str(error),)

    def _pushed(self, folder: Folder) -> LocalWeights | None:
        for preset in same_network(self.file.preset):
            content = folder.read_if_there(f"{preset}/{MANIFEST}")
            if content is None:
                continue
            where = f"{folder.uri.rstrip('/')}/{preset}"
            name, sha256 = _manifest(content, where=f"{where}/{MANIFEST}")
            exact = self.file.matches(name, sha256)
            if not exact and not self.any_pushed:
                continue
            path = self._fetch_pushed(folder, f"{preset}/{name}", sha256, where=f"{where}/{name}")
            return LocalWeights(
                path=path,
                kind="Pushed",
                origin=f"the pushed weights {name} of {preset}",
                where=f"{where}/{name}",
                classes=self.file.classes if exact else (),
            )
        return None

    def _fetch_pushed(self, folder: Folder, path: str, sha256: str, *, where: str) -> Path:
        target = self.scratch / "pushed-weights"
        try:
            actual = folder.download(path, target)
        except FileNotFoundError as error:
            raise BadConfig(
                "InvalidCheckpoint", f"{where} is missing, though {MANIFEST} names it: push it again"
            ) from error
        if actual != sha256:
            raise BadConfig(
                "InvalidCheckpoint",
                f"{where} is damaged: its sha256 is {actual}, {MANIFEST} says {sha256}; push it again",
            )
        return target

    def _stored_by_name(self, folder: Folder) -> LocalWeights:
        path, where = self.scratch / self.file.name, f"{folder.uri.rstrip('/')}/{self.file.name}"
        try:
            sha256 = folder.download(self.file.name, path)
        except (FileNotFoundError, TrainerError):
            path.unlink(missing_ok=True)
            raise
        self._require_hash(sha256, where)
        return self._published(path, where=where)

    def _cached(self) -> LocalWeights | None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / self.file.name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            self._require_hash(hashlib.file_digest(file, "sha256").hexdigest(), str(path))
        return self._published(path, where=str(path), temporary=False)

    def _require_hash(self, sha256: str, where: str) -> None:
        if not self.file.matches(self.file.name, sha256):
            raise BadConfig(
                "InvalidCheckpoint",
                f"{where} is damaged: its sha256 is {sha256}, which does not begin with the digits in its name; "
                "replace or remove it",
            )

    def _published(self, path: Path, *, where: str, temporary: bool = True) -> LocalWeights:
        return LocalWeights(
            path=path,
            kind="Published",
            origin=f"weights {self.file.weights} of {self.file.preset}",
            where=where,
            classes=self.file.classes,
            temporary=temporary,
        )

    def _keep(self, path: Path) -> None:
        """Put a downloaded file into the store, for the next pod."""
        uri = self.settings.uri
        if uri is None:
            return
        try:
            if uri.startswith("file://"):
                Path(unquote(urlsplit(uri).path)).mkdir(parents=True, exist_ok=True)
            self.open_folder(uri).upload(path, self.file.name)
        except (TrainerError, OSError) as error:
            logger.warning("%s could not be put into %s for the next start: %s", self.file.name, uri, error)


def _manifest(content: bytes, *, where: str) -> tuple[str, str]:
    """Return the name and the sha256 of the pushed file."""
    try:
        document: Mapping[str, Any] = json.loads(content)
        name, sha256 = document["file"], document["sha256"]
        if not isinstance(name, str) or not name or "/" in name or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError("file must be a name and sha256 64 hex digits")
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfig("InvalidCheckpoint", f"{where} does not describe weights ({error}): push them again") from error
    return name, sha256


def download(url: str, target: Path, *, answer_seconds: float) -> str:
    """Download a file within a limited time; return its hex sha256.

    The request runs in a thread of its own, because the lookup of a name cannot be given a limit.

    Raises:
        OSError: no answer in time, an error answer, or a transfer that stops.
    """
    transfer = _Transfer(url, target, answer_seconds)
    threading.Thread(target=transfer.run, name="weights-download", daemon=True).start()
    return transfer.result()


class _Transfer:
    """One download; what the thread leaves is read once ``_done`` is set."""

    def __init__(self, url: str, target: Path, answer_seconds: float) -> None:
        self._url = url
        self._target = target
        self._answer_seconds = answer_seconds
        self._answered, self._done, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._sha256 = ""

    def run(self) -> None:
        """Fetch the file; never raises."""
        try:
            self._fetch()
        except Exception as error:  # anything that the client and the server do wrong is an answer that fails
            self._error = error
        finally:
            self._answered.set()
            self._done.set()

    def result(self) -> str:
        """Wait for the end; return the hex sha256."""
        if not self._answered.wait(self._answer_seconds):
            self._abandoned.set()
            raise OSError(f"no answer in {self._answer_seconds:g} s")
        if not self._done.wait(_DOWNLOAD_SECONDS):
            self._abandoned.set()
            raise OSError(f"not complete after {_DOWNLOAD_SECONDS:g} s")
        if self._error is not None:
            raise OSError(str(self._error) or type(self._error).__name__) from self._error
        return self._sha256

    def _fetch(self) -> None:
        request = urllib.request.Request(self._url, headers={"User-Agent": "bloomery"})
        with urllib.request.urlopen(request, timeout=self._answer_seconds) as response:
            self._answered.set()
            digest, size, deadline = hashlib.sha256(), 0, time.monotonic() + _DOWNLOAD_SECONDS
            with self._target.open("wb") as file:
                while not self._abandoned.is_set() and (chunk := response.read(_CHUNK_BYTES)):
                    size += len(chunk)
                    if size > _MAX_BYTES or time.monotonic() > deadline:
                        raise OSError(f"more than {_MAX_BYTES} bytes, or too slow")
                    digest.update(chunk)
                    file.write(chunk)
        self._sha256 = digest.hexdigest()


def unreachable_error(file: PublishedFile, missing: NotFound) -> BadConfig | Unavailable:
    """Return the error for weights that were asked for by name and cannot be had."""
    message = (
        f"the weights {file.weights} of {file.preset} cannot be had: {'; '.join(missing.sources)}; where there is no "
        f"way to download them, push the file {file.name} with `kubectl bloomery weights push {file.name} "
        f"--preset {file.preset}`, or train with initialModel: {{weights: None}}"
    )
    if missing.unreachable:
        return Unavailable("WeightsUnreachable", message)
    return BadConfig("WeightsNotFound", message)


def scratch_warning(file: PublishedFile, missing: NotFound) -> str:
    """Return the note on a training that starts from scratch because no source has the weights."""
    return (
        f"Training starts from scratch, as the published weights ({file.weights} of {file.preset}, {file.name}) cannot "
        f"be had: {'; '.join(missing.sources)}. Trained weights give a much better model: push them with "
        f"`kubectl bloomery weights push FILE --preset {file.preset}`, or set initialModel: {{weights: None}} to train "
        "from scratch on purpose."
    )
