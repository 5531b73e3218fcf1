"""``python -m bloomery_serving kit``: packs a server and a model into one zip."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from bloomery_model.folder import ONNX_DATA_SUFFIXES
from bloomery_serving.errors import ModelError
from bloomery_serving.kit.manifest import MANIFEST, MODEL, Flavour, KitError, Manifest, Platform, digest_of
from bloomery_serving.settings import Settings
from bloomery_serving.storage import fetch_model

BASE = Path("/kit")
"""Where the image of the kits has what every kit of a platform and a flavour is made of."""

_KEPT = {
    "service_name", "service_namespace", "display_name", "description", "variant", "model_name", "model_version",
    "run_id", "training_job", "dataset_name", "dataset_version",
}  # fmt: skip
"""The settings that go along: what answers and pages say of the service and the model."""

_DENSE = (".whl", ".onnx", *ONNX_DATA_SUFFIXES)
"""How files end that get no smaller."""
_LEVEL = 6


def main(arguments: Sequence[str]) -> int:
    """Pack one kit; return the process' exit code."""
    given = _parser().parse_args(arguments)
    try:
        pack(given.base, given.output, model=given.model, platform=given.platform, flavour=given.flavour)
    except (KitError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def pack(base: Path, output: str, *, model: str | None, platform: Platform, flavour: Flavour) -> None:
    """Write a kit's zip to a file, or with ``-`` to the standard output; nothing is written unless all went well.

    Args:
        model: the model's folder; None takes that of the environment, with the digest that stands there.

    Raises:
        ModelError: the model can not be fetched.
        KitError: the base has no such kit, or the output can not be written.
    """
    parts = base / f"{platform}-{flavour}"
    if not parts.is_dir():
        raise KitError(f"{base} has no folder {parts.name}: --base must be the folder that serving-image/kit makes.")
    settings = _settings(model)
    with tempfile.TemporaryDirectory(prefix="kit-") as scratch, _opened(output, Path(scratch)) as archive:
        folder = Path(scratch) / MODEL
        _say(f"Fetching the model from {settings.model_uri}")
        fetched = fetch_model(settings.model_uri, folder, digest=settings.model_digest)
        manifest = Manifest(
            platform=platform,
            flavour=flavour,
            digest=fetched.digest,
            files={path.name: digest_of(path) for path in sorted(folder.iterdir())},
            settings=settings.completed_by(fetched.lineage).model_dump(include=_KEPT),
        )
        _say("Packing")
        _write(archive, f"{settings.service_name}-kit", {"": parts, MODEL: folder}, manifest)


def _settings(model: str | None) -> Settings:
    if model is None and not os.environ.get("MODEL_URI"):
        raise KitError("Which model? Give --model URI, or set MODEL_URI: s3://BUCKET/FOLDER or file:///FOLDER.")
    # The digest in the environment is that of the environment's model.
    return Settings(model_uri=model, model_digest="") if model else Settings()  # type: ignore[call-arg]


@contextmanager
def _opened(output: str, scratch: Path) -> Iterator[Path]:
    """Give the path to write to; what is there at the end becomes the output."""
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
        what = "the standard output" if output == "-" else output
        raise KitError(f"The kit can not be written to {what}: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(archive: Path, name: str, folders: dict[str, Path], manifest: Manifest) -> None:
    with ZipFile(archive, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as kit:
        for inner, folder in folders.items():
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                _add(kit, path, Path(name, inner, path.relative_to(folder)).as_posix())
        kit.writestr(f"{name}/{MANIFEST}", manifest.model_dump_json(indent=1))


def _add(kit: ZipFile, path: Path, name: str) -> None:
    """Add a file with its rights, and uncompressed where compressing it is of no use."""
    entry = ZipInfo.from_file(path, name, strict_timestamps=False)
    entry.compress_type = ZIP_STORED if path.name.endswith(_DENSE) else ZIP_DEFLATED
    with path.open("rb") as source, kit.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


def _say(sentence: str) -> None:
    print(f"{sentence} …", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bloomery_serving kit",
        description="Pack a server and a model into one zip, for a machine without internet. The variables of a "
        "serving pod (AWS_…, MLFLOW_TRACKING_URI, SERVICE_NAME, DISPLAY_NAME, …) are taken from the environment.",
    )
    parser.add_argument("--platform", choices=get_args(Platform), default="linux")
    parser.add_argument("--flavour", choices=get_args(Flavour), default="cpu")
    parser.add_argument("--model", metavar="URI", help="the model's folder; default: MODEL_URI of the environment")
    parser.add_argument("--output", metavar="FILE", required=True, help="the zip to write; - is the standard output")
    parser.add_argument("--base", type=Path, default=BASE, help="folder with what kits are made of (%(default)s)")
    return parser
