"""Packs a server and a model into one zip."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from bloomery_model.folder import ONNX_DATA_SUFFIXES, read_labels
from bloomery_model.statistics import read_statistics
from bloomery_serving.answers import AnswerPolicy
from bloomery_serving.errors import ModelError
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.kit.manifest import MANIFEST, MODEL, Flavour, KitError, Manifest, Platform, digest_of
from bloomery_serving.settings import Settings
from bloomery_serving.storage import fetch_model

_SERVICE_SETTINGS = {
    "service_name",
    "service_namespace",
    "display_name",
    "description",
    "explain",
    "answer_min_confidence",
    "answer_precision",
    "engine",
}
"""The settings of the service that go along; those of the model are its identity."""

_DENSE = (".whl", ".onnx", *ONNX_DATA_SUFFIXES)
"""Endings of the files that do not get smaller."""
_COMPRESSION_LEVEL = 6


def run(base: Path, output: str, *, model: str | None, platform: Platform, flavour: Flavour) -> int:
    """Pack one kit; return the process' exit code."""
    try:
        pack(base, output, model=model, platform=platform, flavour=flavour)
    except (KitError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def pack(base: Path, output: str, *, model: str | None, platform: Platform, flavour: Flavour) -> None:
    """Write a kit's zip to a file, or with ``-`` to the standard output; write nothing unless all goes well.

    Args:
        base: the folder with the parts of every kit.
        output: the zip's path, or ``-``.
        model: the model's folder; None takes that of the environment, with the digest there.
        platform: of the machine that is to serve it.
        flavour: of the server.

    Raises:
        ModelError: the model cannot be fetched, or lacks the thresholds that the settings ask for.
        KitError: the base has no such kit, or the output cannot be written.
    """
    parts = base / f"{platform}-{flavour}"
    if not parts.is_dir():
        raise KitError(f"{base} has no folder {parts.name}: --base must be the folder that serving-image/kit makes.")
    settings = _settings(model)
    with tempfile.TemporaryDirectory(prefix="kit-") as scratch, _opened(output, Path(scratch)) as archive:
        folder = Path(scratch) / MODEL
        _report(f"Fetching the model from {settings.model_uri}")
        fetched = fetch_model(
            settings.model_uri,
            folder,
            digest=settings.model_digest,
            with_explanation=settings.explain,
            # GPUs have one engine alone.
            with_references=flavour == "cpu" and settings.engine != "OnnxRuntime",
        )
        _require_thresholds(settings, folder)
        identity = ModelIdentity.resolve(settings, fetched.lineage, digest=fetched.digest)
        manifest = Manifest(
            platform=platform,
            flavour=flavour,
            digest=fetched.digest,
            files={path.name: digest_of(path) for path in sorted(folder.iterdir())},
            settings=settings.model_dump(include=_SERVICE_SETTINGS) | identity.settings,
        )
        _report("Packing")
        _write(archive, f"{settings.service_name}-kit", {"": parts, MODEL: folder}, manifest)


def _require_thresholds(settings: Settings, folder: Path) -> None:
    """Raise ModelError if the server of the kit could not judge answers as the settings ask."""
    classes = len(read_labels(folder))
    AnswerPolicy.of(settings, read_statistics(folder, classes=classes), classes=classes)


def _settings(model: str | None) -> Settings:
    if model is None and not os.environ.get("MODEL_URI"):
        raise KitError("Which model? Give --model URI, or set MODEL_URI: s3://BUCKET/FOLDER or file:///FOLDER.")
    # The digest in the environment is that of the environment's model.
    return Settings(model_uri=model, model_digest="") if model else Settings()  # type: ignore[call-arg]


@contextmanager
def _opened(output: str, scratch: Path) -> Iterator[Path]:
    """Yield the path to write to; the file there becomes the output."""
    target = Path(output)
    partial = scratch / "kit.zip" if output == "-" else target.with_name(f"{target.name}.partial")
    try:
        partial.touch()
        yield partial
        if output == "-":
            with partial.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1024 * 1024)
            return
        document = {"file": output, "bytes": partial.stat().st_size, "sha256": digest_of(partial)}
        partial.replace(target)
        print(json.dumps(document, ensure_ascii=False))
    except OSError as error:
        name = "the standard output" if output == "-" else output
        raise KitError(f"The kit cannot be written to {name}: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(archive: Path, name: str, folders: dict[str, Path], manifest: Manifest) -> None:
    with ZipFile(archive, "w", ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as kit:
        for inner, folder in folders.items():
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                _add(kit, path, Path(name, inner, path.relative_to(folder)).as_posix())
        kit.writestr(f"{name}/{MANIFEST}", manifest.model_dump_json(indent=1))


def _add(kit: ZipFile, path: Path, name: str) -> None:
    """Add a file with its permissions, uncompressed if compressing it is of no use."""
    entry = ZipInfo.from_file(path, name, strict_timestamps=False)
    entry.compress_type = ZIP_STORED if path.name.endswith(_DENSE) else ZIP_DEFLATED
    with path.open("rb") as source, kit.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


def _report(sentence: str) -> None:
    print(f"{sentence} …", file=sys.stderr, flush=True)
