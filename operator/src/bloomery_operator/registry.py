"""MLflow's registry over REST: which version a name, an alias or a run means, and who serves it.

No MLflow client is needed for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from bloomery_operator.resources.serve import ServedModel
from bloomery_operator.status.verdicts import Verdict

TIMEOUT = aiohttp.ClientTimeout(total=10)
_API = "api/2.0/mlflow"
_URI_TAG, _DIGEST_TAG, _LABEL_TAG = "bloomery.dev/uri", "bloomery.dev/digest", "bloomery.dev/version-label"
_JOB_TAG, _DATASET_TAG = "bloomery.dev/trainingjob", "bloomery.dev/dataset"
_DATASET_VERSION_TAG = "bloomery.dev/dataset-version"
_SERVED_BY = "bloomery.dev/served-by"
_PAGE = 1000


class _Refused(Exception):
    """MLflow says that there is no such thing."""


class RegistryClient:
    """Asks the MLflow server that the pods of a namespace use, with their credentials."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session

    async def find(self, environment: Mapping[str, str], reference: str) -> ServedModel | Verdict:
        """Return the model that ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` means now.

        Args:
            environment: the pods' variables: MLFLOW_TRACKING_URI, and credentials where the server asks for them.
            reference: a version is a number, or the label that people gave it.

        Returns:
            The model: in the store where a TrainingJob made it, else at MLflow's own address, and then without a
            digest. Or what stands in the way; asking again later may help.
        """
        server = _server(environment)
        if server is None:
            return Verdict("RegistryNotConfigured", f"{reference} can not be found: MLFLOW_TRACKING_URI is not set.")
        try:
            version = await self._version(server, environment, reference)
            if version is None:
                return Verdict("ModelNotFound", f"MLflow's registry has no {reference}.")
            if version.get("status", "READY") != "READY":
                said = version.get("status_message") or version["status"]
                return Verdict("ModelNotReady", f"{reference} is not ready in MLflow's registry: {said}")
            return await self._served(server, environment, version)
        except _Refused as error:
            return Verdict("ModelNotFound", f"MLflow's registry has no {reference}: {error}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            detail = str(error) or type(error).__name__
            return Verdict("RegistryUnreachable", f"MLflow could not be asked for {reference}: {detail}")

    async def tag_served(
        self, environment: Mapping[str, str], model: tuple[str, str], *, service: str, variants: str
    ) -> bool:
        """Note on a model version which service serves it, and as which variants; return whether MLflow took it.

        Args:
            model: its name and version.
            service: NAMESPACE/NAME of the InferenceService.
            variants: what to note; empty takes the note away.
        """
        server = _server(environment)
        name, version = model
        body = {"name": name, "version": version, "key": _served_tag(service)}
        try:
            if variants and server:
                await self._ask(server, environment, "model-versions/set-tag", body=body | {"value": variants})
            elif server:
                await self._ask(server, environment, "model-versions/delete-tag", body=body, method="DELETE")
        except (_Refused, aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return server is not None

    async def served(self, environment: Mapping[str, str], namespace: str) -> list[tuple[str, tuple[str, str]]]:
        """Return which model versions are noted as served, by services of the namespace: NAMESPACE/NAME and version.

        Where MLflow does not answer, nothing is known.
        """
        server = _server(environment)
        if server is None:
            return []
        prefix, notes, token = f"{_SERVED_BY}.{namespace}.", [], ""
        try:
            while True:
                query = f"model-versions/search?max_results={_PAGE}&page_token={quote(token)}"
                page = await self._ask(server, environment, query) or {}
                for version in page.get("model_versions") or []:
                    keys = [tag["key"] for tag in version.get("tags") or [] if tag["key"].startswith(prefix)]
                    model = (version["name"], str(version["version"]))
                    notes += [(f"{namespace}/{key.removeprefix(prefix)}", model) for key in keys]
                token = page.get("next_page_token") or ""
                if not token:
                    return notes
        except (_Refused, aiohttp.ClientError, TimeoutError, ValueError):
            return []

    async def _served(self, server: str, environment: Mapping[str, str], version: Mapping[str, Any]) -> ServedModel:
        tags = {tag["key"]: tag["value"] for tag in version.get("tags") or []}
        uri = tags.get(_URI_TAG)
        if uri is None:
            query = f"model-versions/get-download-uri?name={quote(version['name'])}&version={version['version']}"
            answer = await self._ask(server, environment, query)
            uri = str((answer or {}).get("artifact_uri") or version.get("source", ""))
        return ServedModel(
            uri=uri,
            # A digest speaks of the folder in the store, not of what MLflow keeps.
            digest=tags.get(_DIGEST_TAG) if _URI_TAG in tags else None,
            name=version["name"],
            version=str(version["version"]),
            run_id=version.get("run_id") or None,
            training_job=tags.get(_JOB_TAG),
            dataset=tags.get(_DATASET_TAG),
            dataset_version=tags.get(_DATASET_VERSION_TAG),
        )

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

    async def _ask(
        self,
        server: str,
        environment: Mapping[str, str],
        query: str,
        *,
        body: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> dict[str, Any] | None:
        url, headers = URL(f"{server}/{_API}/{query}", encoded=True), _headers(environment)
        method = method or ("POST" if body else "GET")
        async with self._session.request(method, url, json=body, headers=headers, timeout=TIMEOUT) as response:
            document = _document(response, await response.read())
            if response.status == 404:
                return None
            if response.status >= 400:
                kind = _Refused if response.status == 400 else ValueError
                raise kind(str(document.get("message", response.reason))[:300])
            return document


def _document(response: aiohttp.ClientResponse, content: bytes) -> dict[str, Any]:
    """Return what MLflow answered; a proxy before it, or accounts of its own, may answer something else."""
    try:
        return dict(json.loads(content))
    except ValueError as error:
        hint = "; check the credentials in the storage Secret" if response.status in (401, 403) else ""
        raise ValueError(f"the answer is {response.status} {response.reason}{hint}") from error


def _server(environment: Mapping[str, str]) -> str | None:
    server = environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    return server if server.startswith(("http://", "https://")) else None


def _served_tag(service: str) -> str:
    return f"{_SERVED_BY}.{service.replace('/', '.')}"


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
    return {"Authorization": aiohttp.encode_basic_auth(user, password, encoding="utf-8")} if user and password else {}
