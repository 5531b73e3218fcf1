"""The ``prepare`` command: makes a dataset version from the images of its sources."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.earlier_versions import EarlierVersions, write_sides
from bloomery_trainer.prepare.manifest import (
    IGNORED_NAME,
    MANIFEST_NAME,
    MAX_LISTED_FILES,
    QUALITY_NAME,
    REPORT_NAME,
    build_manifest,
    build_summary,
    compute_version,
    describe_ignored,
    version_settings,
    write_ignored,
)
from bloomery_trainer.prepare.pipeline import Pipeline
from bloomery_trainer.prepare.quality import count_quality, write_findings
from bloomery_trainer.prepare.report.mlflow_run import record_in_mlflow
from bloomery_trainer.prepare.report.page import render_page
from bloomery_trainer.prepare.resume import open_resume_state
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import Folder, S3Access, open_folder

logger = logging.getLogger(__name__)


def prepare(config: PrepareConfig, progress: Progress) -> dict[str, Any]:
    """Make the dataset version of the sources' content, unless it exists; return its summary.

    Raises:
        BadConfig: the sources or the settings cannot be used.
        BadData: the images break a rule for the whole dataset.
    """
    progress.update(stage="listing", images=0, total=0)
    target = open_folder(config.output.uri, S3Access.from_environment(os.environ), create=True)
    target.require()
    with (
        open_resume_state(target, config) as resume,
        tempfile.TemporaryDirectory(prefix="bloomery-prepare-") as scratch,
        Pipeline(
            config,
            Path(scratch),
            resume=resume,
            progress=progress,
            earlier=EarlierVersions(target),
        ) as pipeline,
    ):
        pipeline.list_files()
        pipeline.inspect_files()
        pipeline.split_files()
        version = compute_version(pipeline.files.samples.contents(), version_settings(config))
        manifest, page = _read_existing_version(target, version)
        if manifest is None or not _describes(manifest, pipeline):
            # Only the shards depend on the content alone: other files may be left out now, and other things be odd.
            shards = _read_shards(manifest) if manifest else pipeline.pack_shards(target, version)
            created = None if manifest is None else manifest["created"]
            manifest, page = _complete_version(
                pipeline, target, config, version=version, shards=shards, created=created
            )
    summary = build_summary(manifest, f"{config.output.uri.rstrip('/')}/{version}")
    return {**summary, "mlflow": record_in_mlflow(config, summary, page)}


def _read_existing_version(target: Folder, version: str) -> tuple[dict[str, Any] | None, str | None]:
    """Return the manifest and the report of a version that is complete, if there is one."""
    content = target.read_if_there(f"{version}/{MANIFEST_NAME}")
    if content is None:
        return None, None
    logger.info("version %s exists already, nothing to write", version[:16])
    page = target.read_if_there(f"{version}/{REPORT_NAME}")
    return json.loads(content), None if page is None else page.decode()


def _describes(manifest: Mapping[str, Any], pipeline: Pipeline) -> bool:
    """Return whether the files beside a version's shards say what this preparation has seen, too."""
    files = pipeline.files
    ignored = [describe_ignored(file) for file in islice(files.ignored.files(), MAX_LISTED_FILES)]
    seen = (count_quality(files.quality).to_json(), files.ignored.count_by_reason(), ignored, pipeline.warnings())
    return seen == tuple(manifest.get(key) for key in ("quality", "ignoredCounts", "ignored", "warnings"))


def _read_shards(manifest: Mapping[str, Any]) -> dict[str, list[Shard]]:
    return {split: [Shard(**entry) for entry in entries] for split, entries in manifest["shards"].items()}


def _complete_version(
    pipeline: Pipeline,
    target: Folder,
    config: PrepareConfig,
    *,
    version: str,
    shards: Mapping[str, Sequence[Shard]],
    created: str | None,
) -> tuple[dict[str, Any], str]:
    """Write the files beside the shards, the manifest last; return the manifest and the report.

    ``created`` is the time of a version whose shards were there already.
    """
    files = pipeline.files
    manifest = build_manifest(
        version=version,
        settings=version_settings(config),
        counts=files.samples.count(),
        shards=shards,
        ignored=write_ignored(target, f"{version}/{IGNORED_NAME}", files.ignored.files()),
        reasons=files.ignored.count_by_reason(),
        quality=count_quality(files.quality),
        warnings=pipeline.warnings(),
    )
    manifest["created"] = created or manifest["created"]
    write_findings(target, f"{version}/{QUALITY_NAME}", files.quality)
    write_sides(target, version, files.splits.sides())
    page = render_page(files, pipeline.sources, manifest, config)
    target.write(f"{version}/{REPORT_NAME}", page.encode())
    target.write(f"{version}/{MANIFEST_NAME}", json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    images = sum(files.samples.count().values())
    logger.info("version %s is ready: %d images in %d classes", version[:16], images, len(manifest["classes"]))
    return manifest, page
