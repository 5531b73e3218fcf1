"""What a Dataset of some images would be: all of them listed, judged and split, and nothing written.

Needs neither PyTorch nor MLflow, so that people can have their images looked at before they upload them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bloomery_trainer.config import Addition, PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.check import Checking, check_images
from bloomery_trainer.prepare.classes import settle_classes
from bloomery_trainer.prepare.crew import Crew, open_crew
from bloomery_trainer.prepare.index import Ignored, Index
from bloomery_trainer.prepare.listing import Exclusion, place_files
from bloomery_trainer.prepare.manifest import LISTED
from bloomery_trainer.prepare.opening import open_source
from bloomery_trainer.prepare.sources import Source
from bloomery_trainer.prepare.split import assign
from bloomery_trainer.prepare.work import Work
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import S3Access, open_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What would become of the images.

    Attributes:
        counts: usable images of each class and split, as far as they are known.
        reasons: how many files are ignored for which reason.
        ignored: the first of them.
        warnings: sentences about what is allowed but unwise.
        refusal: why there would be no Dataset, if so.
    """

    counts: Mapping[tuple[str, str], int]
    reasons: Mapping[str, int]
    ignored: Sequence[Ignored]
    warnings: Sequence[str]
    refusal: BadConfig | BadData | None


def survey(config: PrepareConfig, progress: Progress) -> Survey:
    """Says what `prepare` would make of the images; `output` takes work files only."""
    progress.update(stage="listing", images=0, total=0)
    work = Work(open_folder(config.output.uri, S3Access.from_environment(os.environ), create=True), config)
    refusal: BadConfig | BadData | None = None
    unused: Sequence[str] = ()
    with tempfile.TemporaryDirectory(prefix="bloomery-survey-") as scratch:
        index = Index(Path(scratch) / "index.sqlite", seed=config.split.seed)
        try:
            sources = open_sources(config, Path(scratch))
            unused = list_files(index, sources, config)
            with open_crew(index.count_pending()) as crew:
                check_files(index, Checking(sources, config.rules), config, crew=crew, work=work, progress=progress)
        except (BadConfig, BadData) as error:
            refusal = error
        try:
            # Also of what is refused: who has to mend it wants to see what there is already.
            assign(index, config.split)
        except BadData as error:
            refusal = refusal or error
        by_class = {name: count for name, count in index.class_counts().items() if count}
        found = Survey(
            counts=index.counts(),
            reasons=index.reasons(),
            ignored=list(islice(index.ignored(), LISTED)),
            warnings=[*rules.warnings(by_class, index.copies()), *rules.unused_exclusions(unused)],
            refusal=refusal,
        )
        index.close()
    return found


def open_sources(config: PrepareConfig, scratch: Path) -> list[Source]:
    """Opens the source and all that is appended; archives are fetched to `scratch`."""
    sources = []
    for number, uri in enumerate([config.source.uri, *(addition.uri for addition in config.append)]):
        folder = scratch / str(number)
        folder.mkdir()
        sources.append(open_source(uri, folder, limit=config.rules.max_archive_bytes))
    return sources


def list_files(index: Index, sources: Sequence[Source], config: PrepareConfig) -> list[str]:
    """Lists all sources; returns the patterns of `exclude` that nothing fitted."""
    exclusion = Exclusion(config.exclude)
    additions = [Addition(uri=config.source.uri), *config.append]
    for number, (source, addition) in enumerate(zip(sources, additions, strict=True)):
        layout = config.source.layout if number == 0 else "Auto"
        place_files(index, number, source, layout=layout, class_name=addition.class_name, exclusion=exclusion)
    return exclusion.unused()


def check_files(
    index: Index, checking: Checking, config: PrepareConfig, *, crew: Crew, work: Work, progress: Progress
) -> None:
    """Settles the classes and judges every image; raises BadData where what is left breaks a rule for all."""
    # Where texts name the classes, they are known only once those are read.
    texts = index.has_labels()
    if not texts:
        settle_classes(index, config)
    check_images(index, checking, crew=crew, work=work, progress=progress)
    if texts:
        settle_classes(index, config)
    reasons = index.reasons()
    if reasons:
        log.info("%d files are ignored: %s", sum(reasons.values()), reasons)
    counts = index.class_counts()
    if not config.rules.check:
        counts = {name: count for name, count in counts.items() if count}
    rules.refuse_bad_classes(counts, index.reasons_by_class(), config.rules)
