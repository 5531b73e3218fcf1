"""The stages of a preparation: list, inspect, split, pack.

Both the command and the dry run go through them. The images are read twice, and never all of them are in memory.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from bloomery_model.sources.base import Source
from bloomery_model.sources.open import open_source
from bloomery_trainer.config import Addition, PrepareConfig
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.arrangement import KnownClasses
from bloomery_trainer.prepare.captures import leave_out_small_captures
from bloomery_trainer.prepare.class_mapping import (
    apply_class_mapping,
    source_names_in_config,
    split_name_warnings,
)
from bloomery_trainer.prepare.copies import describe_copies, describe_near_copies
from bloomery_trainer.prepare.earlier_versions import EarlierVersions
from bloomery_trainer.prepare.file_table import FileTable
from bloomery_trainer.prepare.inspect import InspectionContext, inspect_files
from bloomery_trainer.prepare.labels import resolve_labels
from bloomery_trainer.prepare.layouts import Exclusion, list_source, require_train
from bloomery_trainer.prepare.moves import Moves
from bloomery_trainer.prepare.pack import PackContext, pack_samples
from bloomery_trainer.prepare.quality import handle_copies, handle_near_copies
from bloomery_trainer.prepare.resume import ResumeState
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.prepare.split import require_all_splits, split_files
from bloomery_trainer.prepare.worker_pool import WorkerPool, open_worker_pool
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)


class Pipeline:
    """One preparation; its stages are called in the order of its methods.

    Attributes:
        files: the table of all files.
        sources: the opened sources, after ``list_files``.
    """

    def __init__(
        self,
        config: PrepareConfig,
        scratch: Path,
        *,
        resume: ResumeState,
        progress: Progress,
        earlier: EarlierVersions,
    ) -> None:
        """Create a pipeline without files.

        Args:
            config: of the preparation.
            scratch: an empty folder for the table and the archives.
            resume: the results of earlier runs; takes those of this one.
            progress: takes the number of images done in each stage.
            earlier: the dataset's earlier versions.
        """
        self.files = FileTable(scratch / "index.sqlite", seed=config.split.seed)
        self.sources: list[Source] = []
        self._config = config
        self._scratch = scratch
        self._resume = resume
        self._progress = progress
        first = Addition(uri=config.source.uri, encoding=config.source.encoding)
        self._additions = (first, *config.append)
        self._earlier_classes = cache(lambda: tuple(earlier.class_names()))
        self._find_earlier_split = partial(earlier.newest_split, scratch)
        self._exclusion = Exclusion(config.exclude)
        self._moves = Moves(config.move)
        self._label_warnings: list[str] = []
        self._split_warnings: list[str] = []
        self._is_listed = False
        self._resources = ExitStack()
        self._resources.enter_context(closing(self.files))
        self._workers: WorkerPool | None = None

    def __enter__(self) -> Self:
        """Return the pipeline."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the workers and close the table."""
        self._resources.close()

    def list_files(self) -> None:
        """Open the sources, list their files, and assign classes and splits by the paths."""
        source = self._config.source
        self.sources = [self._open_source(number, addition) for number, addition in enumerate(self._additions)]
        for number, addition in enumerate(self._additions):
            list_source(
                self.files,
                number,
                self.sources[number],
                layout=source.layout if number == 0 else "Auto",
                addition=addition,
                known=self._known_classes(),
                exclusion=self._exclusion,
            )
        self._is_listed = True
        require_train(self.files.splits)

    def inspect_files(self) -> None:
        """Apply the class mapping, inspect every image, and check the rules for classes."""
        # Label texts must be read before their classes can be mapped.
        has_labels = self.files.inspection.has_labels()
        if not has_labels:
            apply_class_mapping(self.files.classes, self._config, self._moves)
        inspect_files(
            self.files.inspection,
            InspectionContext(self.sources, self._config.rules),
            workers=self._open_workers(),
            resume=self._resume,
            progress=self._progress,
        )
        if has_labels:
            self._label_warnings = resolve_labels(self.files.labels, self._additions, renamed=self._config.rename)
            apply_class_mapping(self.files.classes, self._config, self._moves)
            self._label_warnings += leave_out_small_captures(self.files.classes, self._config.rules)
        self._check_classes()

    def split_files(self) -> None:
        """Give every usable image a split, and find copies.

        Raises:
            BadData: too little is left to train or to validate.
        """
        rules = self._config.rules
        self._split_warnings = split_files(self.files, self._config.split, self._find_earlier_split)
        handle_copies(self.files.quality, rules)
        self.files.splits.fill_classes()
        handle_near_copies(self.files.quality, rules)
        require_all_splits(self.files)

    def pack_shards(self, target: Folder, version: str) -> dict[str, list[Shard]]:
        """Write the shards of each split below ``target``."""
        classes = sorted({name for name, _ in self.files.samples.count()})
        class_indices = {name: index for index, name in enumerate(classes)}
        return pack_samples(
            self.files.samples,
            PackContext(self.sources, target, self._resume, version, class_indices),
            shard_images=self._config.shards.images,
            workers=self._open_workers(),
            progress=self._progress,
        )

    def warnings(self) -> list[str]:
        """Return sentences about what is allowed but not recommended."""
        counts = {name: count for name, count in self.files.inspection.count_by_class().items() if count}
        # Before all files are listed, nothing is known of a pattern that fits none.
        unused = self._exclusion.unused_patterns() if self._is_listed else []
        return [
            *(warning for source in self.sources for warning in source.warnings),
            *self._label_warnings,
            *rules.class_warnings(counts),
            *split_name_warnings(counts, self._config.source.layout),
            *describe_copies(self.files.quality.copies()),
            *describe_near_copies(self.files.quality.crossing_near_copies()),
            *self._split_warnings,
            *rules.exclusion_warnings(unused),
            *self._moves.warnings(),
        ]

    def _known_classes(self) -> KnownClasses:
        names = source_names_in_config(self._config) | set(self.files.classes.names())
        return KnownClasses(frozenset(names), self._earlier_classes)

    def _open_source(self, number: int, addition: Addition) -> Source:
        folder = self._scratch / str(number)
        folder.mkdir()
        limit = self._config.rules.max_archive_bytes
        return open_source(addition.uri, folder, number=number, max_archive_bytes=limit, encoding=addition.encoding)

    def _open_workers(self) -> WorkerPool:
        """Return the workers; the first call starts as many as the pending files need."""
        if self._workers is None:
            images = self.files.inspection.count_pending()
            self._workers = self._resources.enter_context(open_worker_pool(images))
        return self._workers

    def _check_classes(self) -> None:
        ignored = self.files.ignored
        reasons = ignored.count_by_reason()
        if reasons:
            logger.info("%d files are ignored: %s", sum(reasons.values()), reasons)
        counts = self.files.inspection.count_by_class()
        if not self._config.rules.check:
            counts = {name: count for name, count in counts.items() if count}
        rules.check_classes(counts, ignored.count_by_class(), self._config.rules)
