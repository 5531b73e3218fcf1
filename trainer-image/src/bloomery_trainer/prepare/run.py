"""The `prepare` command: list, check, split, pack; twice over the images, never all of them in memory."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare import manifest as manifests
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.check import Checking
from bloomery_trainer.prepare.crew import open_crew
from bloomery_trainer.prepare.index import Index
from bloomery_trainer.prepare.pack import Packing, pack
from bloomery_trainer.prepare.record import record
from bloomery_trainer.prepare.report import render
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.prepare.sources import Source
from bloomery_trainer.prepare.split import assign
from bloomery_trainer.prepare.survey import check_files, list_files, open_sources
from bloomery_trainer.prepare.work import Work
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import Folder, S3Access, open_folder

log = logging.getLogger(__name__)


def prepare(config: PrepareConfig, progress: Progress) -> dict[str, Any]:
    """Makes the dataset version that the content of the sources gives, and returns its summary.

    A version that exists is left as it is. Raises BadData where the images break a rule that all must keep.
    """
    progress.update(stage="listing", images=0, total=0)
    target = open_folder(config.output.uri, S3Access.from_environment(os.environ), create=True)
    target.require()
    with ExitStack() as stack:
        work = stack.enter_context(_work(target, config))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bloomery-prepare-")))
        sources = open_sources(config, folder)
        index = Index(folder / "index.sqlite", seed=config.split.seed)
        unused = list_files(index, sources, config)
        crew = stack.enter_context(open_crew(index.count_pending()))
        check_files(index, Checking(sources, config.rules), config, crew=crew, work=work, progress=progress)
        assign(index, config.split)
        version = manifests.version_of(index.contents(), manifests.settings(config))
        manifest, page = _existing(target, version)
        if manifest is None:
            classes = {name: number for number, name in enumerate(sorted({name for name, _ in index.counts()}))}
            packing = Packing(sources, target, work, version, classes)
            shards = pack(index, packing, size=config.shards.images, crew=crew, progress=progress)
            manifest, page = _finished(index, sources, target, config, version=version, shards=shards, unused=unused)
        index.close()
    summary = manifests.summary(manifest, f"{config.output.uri.rstrip('/')}/{version}")
    return {**summary, "mlflow": record(config, summary, page)}


@contextmanager
def _work(target: Folder, config: PrepareConfig) -> Iterator[Work]:
    """The work files; they stay only where another try may go on with them."""
    work = Work(target, config)
    try:
        yield work
    except (BadConfig, BadData):
        work.clear()
        raise
    work.clear()


def _existing(target: Folder, version: str) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest and the report of a version that is whole already."""
    content = target.read_if_there(f"{version}/{manifests.NAME}")
    if content is None:
        return None, None
    log.info("version %s exists already, nothing to write", version[:16])
    page = target.read_if_there(f"{version}/{manifests.REPORT}")
    return json.loads(content), None if page is None else page.decode()


def _finished(
    index: Index,
    sources: Sequence[Source],
    target: Folder,
    config: PrepareConfig,
    *,
    version: str,
    shards: Mapping[str, Sequence[Shard]],
    unused: Sequence[str],
) -> tuple[dict[str, Any], str]:
    """Writes what goes beside the shards, the manifest last; returns it and the report."""
    counts = index.counts()
    by_class = {name: count for name, count in index.class_counts().items() if count}
    manifest = manifests.build(
        version=version,
        settings=manifests.settings(config),
        counts=counts,
        shards=shards,
        ignored=manifests.write_ignored(target, f"{version}/{manifests.IGNORED}", index.ignored()),
        reasons=index.reasons(),
        warnings=[*rules.warnings(by_class, index.copies()), *rules.unused_exclusions(unused)],
    )
    page = render(index, sources, manifest, config)
    target.write(f"{version}/{manifests.REPORT}", page.encode())
    target.write(f"{version}/{manifests.NAME}", json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    log.info("version %s is ready: %d images in %d classes", version[:16], sum(counts.values()), len(by_class))
    return manifest, page
