"""Opens a source by its URI: a folder directly, an archive after its download and check."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bloomery_model.sources.access import open_folder, source_access
from bloomery_model.sources.archive import SUFFIXES, Archive, is_archive
from bloomery_model.sources.base import Source
from bloomery_model.sources.download import (
    download_from_store,
    download_https,
    format_bytes,
    parse_networks,
    without_query,
)
from bloomery_model.sources.encoding_names import Encoding
from bloomery_model.sources.folder import FolderSource
from bloomery_model.task_errors import BadConfig

logger = logging.getLogger(__name__)

ALLOWED_NETWORKS_VARIABLE = "BLOOMERY_SOURCE_NETWORKS"
"""Environment variable: networks, in addition to the public internet, from which archives may be downloaded."""


def open_source(
    uri: str,
    scratch: Path,
    *,
    number: int = 0,
    max_archive_bytes: int,
    encoding: Encoding | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Source:
    """Open a folder or an archive.

    Args:
        uri: its address.
        scratch: an empty folder, which takes the archive.
        number: of the source, by which its Secret is found.
        max_archive_bytes: ``rules.maxArchiveBytes``.
        encoding: of the names in the archive that declare none; None to choose one.
        environment: the access to the store of sources, and the allowed networks.
    """
    https = uri.startswith("https://")
    if https and not is_archive(uri):
        raise BadConfig(
            "SourceRefused",
            f"{without_query(uri)} is not an archive: an https source must end in {', '.join(SUFFIXES)}",
        )
    if not is_archive(uri) or (not https and Path(unquote(urlsplit(uri).path)).is_dir()):
        access = source_access(environment, number)
        return FolderSource(open_folder(uri, access), access)
    path, label = scratch / "archive", without_query(uri)
    logger.info("downloading %s", label)
    if https:
        networks = parse_networks(environment.get(ALLOWED_NETWORKS_VARIABLE, ""))
        digest = download_https(uri, path, max_bytes=max_archive_bytes, networks=networks)
    else:
        parent, _, name = uri.rpartition("/")
        folder = open_folder(parent, source_access(environment, number))
        digest = download_from_store(folder, unquote(name), path, max_bytes=max_archive_bytes)
    logger.info("checking %s, %s", label, format_bytes(path.stat().st_size))
    return Archive(path, uri=label, stamp=digest, max_archive_bytes=max_archive_bytes, encoding=encoding)
