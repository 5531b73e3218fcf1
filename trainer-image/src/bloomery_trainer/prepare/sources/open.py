"""Opening the sources of a dataset: folders as they are, archives fetched and checked first."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bloomery_trainer.errors import BadConfig
from bloomery_trainer.prepare.sources.archive import ENDINGS, Archive, is_archive
from bloomery_trainer.prepare.sources.base import Source
from bloomery_trainer.prepare.sources.download import fetch_from_store, fetch_https, gib, parse_networks, without_query
from bloomery_trainer.storage import open_folder, source_access

log = logging.getLogger(__name__)

NETWORKS = "BLOOMERY_SOURCE_NETWORKS"
"""Environment variable: networks beside the public internet from which archives may be fetched."""


def open_source(uri: str, scratch: Path, *, limit: int, environment: Mapping[str, str] = os.environ) -> Source:
    """Opens a folder or an archive; `scratch` is an empty folder for the latter, `limit` rules.maxArchiveBytes."""
    https = uri.startswith("https://")
    if https and not is_archive(uri):
        raise BadConfig(
            "SourceRefused", f"{without_query(uri)} is no archive: by https only {', '.join(ENDINGS)} can be read"
        )
    if not is_archive(uri) or (not https and Path(unquote(urlsplit(uri).path)).is_dir()):
        return open_folder(uri, source_access(environment))
    shown = without_query(uri)
    path = scratch / "archive"
    log.info("fetching %s", shown)
    if https:
        networks = parse_networks(environment.get(NETWORKS, ""))
        digest = fetch_https(uri, path, limit=limit, networks=networks)
    else:
        folder, _, name = uri.rpartition("/")
        digest = fetch_from_store(open_folder(folder, source_access(environment)), unquote(name), path, limit=limit)
    log.info("checking %s, %s", shown, gib(path.stat().st_size))
    return Archive(path, uri=shown, stamp=digest, limit=limit)
