"""Texts about the service and names of its model that may change while the server runs: a mounted file holds them.

A correction of a text, or a registration after the deployment, must not restart a server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from bloomery_serving.identity import ModelIdentity
from bloomery_serving.settings import Settings

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Time between two looks at the file."""


class _Texts(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    display_name: str = ""
    description: str = ""
    model_name: str = ""
    model_version: str = ""
    peer: str = ""


class About:
    """The present texts and names: those of the file, or without one those of the settings."""

    def __init__(
        self,
        settings: Settings,
        identity: ModelIdentity,
        *,
        on_change: Callable[[ModelIdentity], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the settings.

        Args:
            settings: of the server; they name the file.
            identity: of the model; the file may have another name and version of it.
            on_change: called with an identity that differs from the one before.
            clock: returns seconds.
        """
        self._file = settings.about_file
        self._service_name = settings.service_name
        self._texts = _Texts.model_validate(settings.model_dump(include=set(_Texts.model_fields)))
        self._identity = identity
        self._on_change = on_change
        self._clock = clock
        self._checked = float("-inf")
        self._content: bytes | None = None

    @property
    def title(self) -> str:
        """The service's name for people."""
        return self._current().display_name or self._service_name

    @property
    def description(self) -> str:
        """The service's description."""
        return self._current().description

    @property
    def peer(self) -> str:
        """The address of pods whose model this one replaces, http://HOST:PORT; empty if there are none."""
        return self._current().peer

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model; the same object while nothing changes."""
        self._current()
        return self._identity

    def _current(self) -> _Texts:
        now = self._clock()
        if self._file is not None and now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._read()
        return self._texts

    def _read(self) -> None:
        assert self._file is not None
        try:
            content = self._file.read_bytes()
        except OSError:
            # Not there yet, or being replaced: what was read last stays.
            return
        if content == self._content:
            return
        self._content = content
        try:
            self._texts = _Texts.model_validate_json(content)
        except ValidationError as error:
            logger.warning("%s is left out, it must be a JSON object of texts: %s", self._file, error)
            return
        names = {"model_name": self._texts.model_name, "model_version": self._texts.model_version}
        changed = replace(self._identity, **names)
        if changed != self._identity:
            self._identity = changed
            self._on_change(changed)
