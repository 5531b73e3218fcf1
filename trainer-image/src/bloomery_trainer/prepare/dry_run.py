"""The dry run of a preparation: lists, inspects and splits the images, and writes no dataset version.

It needs neither PyTorch nor MLflow, so that people can check their images before they upload them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare.earlier_versions import EarlierVersions
from bloomery_trainer.prepare.file_table import IgnoredFile
from bloomery_trainer.prepare.manifest import MAX_LISTED_FILES
from bloomery_trainer.prepare.pipeline import Pipeline
from bloomery_trainer.prepare.resume import ResumeState
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import S3Access, open_folder


@dataclass(frozen=True)
class DryRunResult:
    """The dataset that a preparation would make.

    Attributes:
        counts: usable images of each class and split, as far as they are known.
        reasons: number of ignored files for each reason.
        ignored: the first ignored files.
        warnings: sentences about what is allowed but not recommended.
        refusal: why there would be no dataset, if so.
    """

    counts: Mapping[tuple[str, str], int]
    reasons: Mapping[str, int]
    ignored: Sequence[IgnoredFile]
    warnings: Sequence[str]
    refusal: BadConfig | BadData | None


def dry_run(config: PrepareConfig, progress: Progress) -> DryRunResult:
    """Return what ``prepare`` would make of the images; the folder of ``output`` takes the resume state only."""
    progress.update(stage="listing", images=0, total=0)
    target = open_folder(config.output.uri, S3Access.from_environment(os.environ), create=True)
    with (
        tempfile.TemporaryDirectory(prefix="bloomery-dry-run-") as scratch,
        Pipeline(
            config,
            Path(scratch),
            resume=ResumeState(target, config),
            progress=progress,
            earlier=EarlierVersions(None),
        ) as pipeline,
    ):
        refusal = _run_stages(pipeline)
        return DryRunResult(
            counts=pipeline.files.samples.count(),
            reasons=pipeline.files.ignored.count_by_reason(),
            ignored=list(islice(pipeline.files.ignored.files(), MAX_LISTED_FILES)),
            warnings=pipeline.warnings(),
            refusal=refusal,
        )


def _run_stages(pipeline: Pipeline) -> BadConfig | BadData | None:
    """Run all stages that write nothing; return the first refusal."""
    refusal: BadConfig | BadData | None = None
    try:
        pipeline.list_files()
        pipeline.inspect_files()
    except (BadConfig, BadData) as error:
        refusal = error
    try:
        # Also after a refusal: the counts by split help to correct the images.
        pipeline.split_files()
    except BadData as error:
        refusal = refusal or error
    return refusal
