"""The folders of stores, as all modules of the trainer use them."""

from __future__ import annotations

from bloomery_model.sources.access import open_folder as open_folder
from bloomery_model.stores import Folder as Folder
from bloomery_model.stores import S3Access as S3Access
from bloomery_model.stores import StoredFile as StoredFile
