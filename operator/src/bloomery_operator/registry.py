"""MLflow's registry over REST: which version a name, an alias or a run means. No MLflow client is needed for that."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from bloomery_operator.resources.train import StartingPoint
from bloomery_operator.status.verdicts import Verdict

TIMEOUT = aiohttp.ClientTimeout(total=10)
_API = "api/2.0/mlflow"
_URI_TAG, _DIGEST_TAG, _LABEL_TAG = "bloomery.dev/uri", "bloomery.dev/digest", "bloomery.dev/version-label"


class _Refused(Exception):
    """MLflow says that there is no such thing."""


class RegistryClient:
    """Asks the MLflow server that the pods of a namespace use, with their credentials."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session

    async def find(self, environment: Mapping[str, str], reference: str) -> StartingPoint | Verdict:
        """Return the model that ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` means now.

        Args:
            environment: the pods' variables: MLFLOW_TRACKING_URI, and credentials where the server asks for them.
            reference: a version is a number, or the label that people gave it.

        Returns:
            The model's folder in the store, or what stands in the way; asking again later may help.
        """
        server = environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        if not server.startswith(("http://", "https://")):
            return Verdict("RegistryNotConfigured", f"{reference} can not be found: MLFLOW_TRACKING_URI is not set.")
        try:
            version = await self._version(server, environment, reference)
        except _Refused as error:
            return Verdict("ModelNotFound", f"MLflow's registry has no {reference}: {error}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            detail = str(error) or type(error).__name__
            return Verdict("RegistryUnreachable", f"MLflow could not be asked for {reference}: {detail}")
        if version is None:
            return Verdict("ModelNotFound", f"MLflow's registry has no {reference}.")
        return _starting_point(version, reference)

    async def _version(self, server: str, environment: Mapping[str, str], reference: str) -> Mapping[str, Any] | None:
        if reference.startswith("runs:/"):
            run = reference.removeprefix("runs:/").partition("/")[0]
            return await self._search(server, environment, f"run_id = '{run}'")
        name, mark, which = re.fullmatch(r"models:/([^/@:]+)([/@])([^/@:]+)", reference).groups()  # type: ignore[union-attr]
        if mark == "@":
            query = f"registered-models/alias?name={quote(name)}&alias={quote(which)}"
            return await self._get(server, environment, query)
        if which.isdecimal():
            query = f"model-versions/get?name={quote(name)}&version={which}"
            return await self._get(server, environment, query)
        condition = f"name = {_quoted(name)} and tag.`{_LABEL_TAG}` = {_quoted(which)}"
        return await self._search(server, environment, condition)

    async def _search(self, server: str, environment: Mapping[str, str], condition: str) -> Mapping[str, Any] | None:
        document = await self._ask(server, environment, f"model-versions/search?filter={quote(condition)}")
        versions = (document or {}).get("model_versions") or []
        return max(versions, key=lambda version: int(version["version"]), default=None)

    async def _get(self, server: str, environment: Mapping[str, str], query: str) -> Mapping[str, Any] | None:
        document = await self._ask(server, environment, query)
        return None if document is None else document["model_version"]

    async def _ask(self, server: str, environment: Mapping[str, str], query: str) -> dict[str, Any] | None:
        url, headers = f"{server}/{_API}/{query}", _headers(environment)
        async with self._session.get(URL(url, encoded=True), headers=headers, timeout=TIMEOUT) as response:
            document = json.loads(await response.read())
            if response.status == 404:
                return None
            if response.status >= 400:
                kind = _Refused if response.status == 400 else ValueError
                raise kind(str(document.get("message", response.reason))[:300])
            return dict(document)


def _quoted(text: str) -> str:
    """Return a text as MLflow's filters take it: they know two quotation marks, but nothing that makes one a letter."""
    mark = next((mark for mark in ("'", '"') if mark not in text), None)
    if mark is None:
        raise _Refused("it can not be asked for names and labels that hold both ' and \".")
    return f"{mark}{text}{mark}"


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    return {"Authorization": aiohttp.BasicAuth(user, password).encode()} if user and password else {}


def _starting_point(version: Mapping[str, Any], reference: str) -> StartingPoint | Verdict:
    tags = {tag["key"]: tag["value"] for tag in version.get("tags") or []}
    display = f"{version['name']}/{version['version']}"
    if _URI_TAG not in tags:
        return Verdict(
            "ModelNotOurs",
            f"{reference} is {display}, which was not made by a TrainingJob: its tag {_URI_TAG} is missing, the folder "
            "in the store with the weights to go on from.",
        )
    return StartingPoint(uri=tags[_URI_TAG], digest=tags.get(_DIGEST_TAG), origin=display)
