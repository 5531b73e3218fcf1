"""Client of MLflow's model registry: resolves references to model versions, and tags the versions that are served.

It uses the REST API directly, so that the operator needs no MLflow package.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

import aiohttp
from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yarl import URL

from bloomery_operator.api.reasons import Reason
from bloomery_operator.clients.http import (
    NO_PROXIES,
    CircuitBreaker,
    Proxies,
    ReleasedSlot,
    describe_error,
    no_slot,
    read_limited,
)
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict

MAX_RESPONSE_BYTES = 256 * 1024
_MAX_CACHED_REFERENCES = 10_000
_API = "api/2.0/mlflow"
_URI_TAG, _DIGEST_TAG, _LABEL_TAG = "bloomery.dev/uri", "bloomery.dev/digest", "bloomery.dev/version-label"
_JOB_TAG, _DATASET_TAG = "bloomery.dev/trainingjob", "bloomery.dev/dataset"
_DATASET_VERSION_TAG = "bloomery.dev/dataset-version"
_MAX_FOUND_VERSIONS = 20
"""Versions that a search returns, the newest first: only the newest is used."""
_ADDRESS = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~-]*)*)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_STATUS = re.compile(r"[A-Z_]{1,40}")

Environment = Mapping[str, str]


class _RequestRejected(Exception):
    """MLflow rejected the request as invalid, or it cannot be expressed."""


class _Document(BaseModel):
    """A part of a response; fields that are not used here are ignored."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, document: object) -> object:
        """Treat a field that is null as absent."""
        if not isinstance(document, dict):
            return document
        return {field: value for field, value in document.items() if value is not None}


class _Tag(_Document):
    key: str
    value: str = ""


class _ModelVersion(_Document):
    name: str
    version: int
    run_id: str | None = None
    source: str = ""
    status: str = "READY"
    tags: tuple[_Tag, ...] = ()


class _Response(_Document):
    """The fields of all responses that are used here."""

    model_version: _ModelVersion | None = None
    model_versions: tuple[_ModelVersion, ...] = ()
    artifact_uri: str = ""


class MlflowClient:
    """Sends requests to the MLflow server that the pods of a namespace use, with their credentials.

    A resolved reference is cached for ``poll_seconds``, however many events need it. A server that does not answer
    gets no requests for as long, and for longer each time.

    Users who can write the Secret of a namespace choose the address: only those that the administrator listed are
    contacted. An answer has a limited size, is parsed in a thread, and no text of it becomes part of a verdict.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        allowed: Iterable[str],
        poll_seconds: float = 0.0,
        timeout_seconds: float = 10.0,
        proxies: Proxies = NO_PROXIES,
        clock: Callable[[], float] = time.monotonic,
        released_slot: ReleasedSlot = no_slot,
    ) -> None:
        """Use an HTTP session, which the caller closes, for the servers with the ``allowed`` addresses."""
        self._session = session
        self._proxies = proxies
        self._allowed = frozenset(address for url in allowed if (address := _canonical_address(url)) is not None)
        self._released_slot = released_slot
        self._timeout_seconds = timeout_seconds
        self._circuits = CircuitBreaker(open_seconds=poll_seconds, probe_seconds=timeout_seconds, clock=clock)
        self._resolved: TTLCache[tuple[str, ...], ServedModel | Verdict, float] = TTLCache(
            _MAX_CACHED_REFERENCES, poll_seconds, timer=clock
        )

    async def find(self, environment: Environment, reference: str, *, use_cache: bool = True) -> ServedModel | Verdict:
        """Return the model that ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` refers to now.

        Args:
            environment: the pods' variables: MLFLOW_TRACKING_URI, and the credentials if the server needs any.
            reference: its version is a number, or the label that a user gave the version.
            use_cache: whether the answer of a moment ago will do.

        Returns:
            The model, or the reason why it cannot be had now; a later call may succeed. A model that a TrainingJob
            made is at its address in the store; any other is at MLflow's own address, and has no digest.
        """
        server = self._server(environment)
        if isinstance(server, Verdict):
            return Verdict(server.reason, f"{reference} cannot be resolved: {server.message}")
        # The credentials are part of the key: another user may see other versions.
        key = (server, *_auth_headers(environment).values(), reference)
        resolved = self._resolved.get(key) if use_cache else None
        if resolved is None:
            resolved = self._resolved[key] = await self._resolve(server, environment, reference)
        return resolved

    async def tag_served(self, environment: Environment, model: tuple[str, str], *, tag: str, variants: str) -> bool:
        """Set the tag of a model version that names a service and the variants that serve it.

        Args:
            environment: the pods' variables, as for ``find``.
            model: name and version of the model.
            tag: key of the tag.
            variants: value of the tag; an empty one removes the tag.

        Returns:
            Whether MLflow accepted the change.
        """
        server = self._server(environment)
        if isinstance(server, Verdict):
            return False
        name, version = model
        body = {"name": name, "version": version, "key": tag}
        try:
            if variants:
                await self._request(server, environment, "model-versions/set-tag", body=body | {"value": variants})
            else:
                await self._request(server, environment, "model-versions/delete-tag", body=body, method="DELETE")
        except (_RequestRejected, aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return True

    def _server(self, environment: Environment) -> str | Verdict:
        """Return the address of the pods' MLflow, or why it is not contacted."""
        url = environment.get("MLFLOW_TRACKING_URI", "").strip()
        if not url.startswith(("http://", "https://")):
            return Verdict(Reason.REGISTRY_NOT_CONFIGURED, "MLFLOW_TRACKING_URI is not set.")
        address = _canonical_address(url)
        if address is None:
            return Verdict(
                Reason.MLFLOW_NOT_ALLOWED,
                "MLFLOW_TRACKING_URI must be an address without user, query and fragment; credentials have the keys "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
            )
        if address not in self._allowed:
            return Verdict(
                Reason.MLFLOW_NOT_ALLOWED,
                "MLFLOW_TRACKING_URI is not an MLflow that this installation lists: use one of those, or ask the "
                "administrator to add it (mlflow.allowedAddresses of the chart).",
            )
        return address

    async def _resolve(self, server: str, environment: Environment, reference: str) -> ServedModel | Verdict:
        try:
            version = await self._find_version(server, environment, reference)
            if version is None:
                return Verdict(Reason.MODEL_NOT_FOUND, f"MLflow's registry has no {reference}.")
            if version.status != "READY":
                status = version.status if _STATUS.fullmatch(version.status) else "not READY"
                return Verdict(Reason.MODEL_NOT_READY, f"{reference} is not ready in MLflow's registry: {status}")
            return await self._served_model(server, environment, version)
        except _RequestRejected as error:
            return Verdict(Reason.MODEL_NOT_FOUND, f"MLflow's registry has no {reference}: {error}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            detail = describe_error(error, self._timeout_seconds)
            return Verdict(Reason.REGISTRY_UNREACHABLE, f"MLflow could not resolve {reference}: {detail}")

    async def _served_model(self, server: str, environment: Environment, version: _ModelVersion) -> ServedModel:
        tags = {tag.key: tag.value for tag in version.tags}
        uri = tags.get(_URI_TAG)
        if uri is None:
            query = f"model-versions/get-download-uri?name={quote(version.name)}&version={version.version}"
            response = await self._request(server, environment, query) or _Response()
            uri = response.artifact_uri or version.source
        return ServedModel(
            uri=uri,
            # The digest is that of the folder in the store; MLflow's own copy may differ.
            digest=tags.get(_DIGEST_TAG) if _URI_TAG in tags else None,
            name=version.name,
            version=str(version.version),
            run_id=version.run_id or None,
            training_job=tags.get(_JOB_TAG),
            dataset=tags.get(_DATASET_TAG),
            dataset_version=tags.get(_DATASET_VERSION_TAG),
        )

    async def _find_version(self, server: str, environment: Environment, reference: str) -> _ModelVersion | None:
        if reference.startswith("runs:/"):
            run = reference.removeprefix("runs:/").partition("/")[0]
            return await self._search_version(server, environment, f"run_id = '{run}'")
        name, separator, selector = re.fullmatch(  # type: ignore[union-attr]  # the API's schema checks the form
            r"models:/([^/@:]+)([/@])([^/@:]+)", reference
        ).groups()
        if separator == "@":
            query = f"registered-models/alias?name={quote(name)}&alias={quote(selector)}"
            return await self._get_version(server, environment, query)
        if selector.isdecimal():
            query = f"model-versions/get?name={quote(name)}&version={selector}"
            return await self._get_version(server, environment, query)
        condition = f"name = {_quote_filter_value(name)} and tag.`{_LABEL_TAG}` = {_quote_filter_value(selector)}"
        return await self._search_version(server, environment, condition)

    async def _search_version(self, server: str, environment: Environment, condition: str) -> _ModelVersion | None:
        order = quote("version_number DESC")
        query = f"model-versions/search?filter={quote(condition)}&max_results={_MAX_FOUND_VERSIONS}&order_by={order}"
        response = await self._request(server, environment, query) or _Response()
        return max(response.model_versions, key=lambda version: version.version, default=None)

    async def _get_version(self, server: str, environment: Environment, query: str) -> _ModelVersion | None:
        response = await self._request(server, environment, query)
        if response is not None and response.model_version is None:
            raise ValueError("the answer contains no model version")
        return response.model_version if response is not None else None

    async def _request(
        self,
        server: str,
        environment: Environment,
        query: str,
        *,
        body: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> _Response | None:
        """Return the response of MLflow; None for one of status 404."""
        url, headers = URL(f"{server}/{_API}/{query}", encoded=True), _auth_headers(environment)
        method = method or ("POST" if body else "GET")
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        with self._circuits.guard(server):
            # A redirect must not lead the operator to an address that is not listed.
            async with (
                self._released_slot(),
                self._session.request(
                    method,
                    url,
                    json=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    proxy=self._proxies.proxy_for(url),
                    ssl=not _is_insecure(environment),
                ) as response,
            ):
                content = await read_limited(response, MAX_RESPONSE_BYTES)
        # In a thread: a large answer must not stop all other work.
        document = await asyncio.to_thread(_parse_response, content)
        if document is not None and 200 <= response.status < 300:
            return document
        _raise_for_status(response.status, is_document=document is not None)
        return None


def _parse_response(content: bytes) -> _Response | None:
    """Return a response as a document; None if it is not from MLflow's API but from a proxy in front of it."""
    try:
        return _Response.model_validate_json(content)
    except ValidationError:
        return None


def _raise_for_status(status: int, *, is_document: bool) -> None:
    """Raise for any answer but MLflow's 404, which means that the object does not exist.

    Raises:
        ValueError, _RequestRejected: it is another one; the message has the status, and nothing else of the answer.
    """
    if is_document and status == 404:
        return
    if is_document and status == 400:
        raise _RequestRejected("status 400")
    hint = "; check the credentials in the storage Secret" if status in (401, 403) else ""
    if 200 <= status < 300:
        hint = ", but the answer is not from MLflow's registry"
    elif 300 <= status < 400:
        hint = ": set MLFLOW_TRACKING_URI to the address that it redirects to"
    raise ValueError(f"status {status}{hint}")


def _canonical_address(url: str) -> str | None:
    """Return an address in one form, to be compared; None if it is none, or has a user, a query or a fragment."""
    address = _ADDRESS.fullmatch(url.strip())
    if address is None:
        return None
    scheme, host, port, path = address.groups()
    return f"{scheme}://{host.lower()}:{port or _DEFAULT_PORTS[scheme]}{path.rstrip('/')}"


def _quote_filter_value(text: str) -> str:
    """Return a text in quotation marks for MLflow's filters, which have two kinds of marks but no escape character."""
    mark = next((mark for mark in ("'", '"') if mark not in text), None)
    if mark is None:
        raise _RequestRejected("MLflow cannot search for a name or label that contains both ' and \".")
    return f"{mark}{text}{mark}"


def _is_insecure(environment: Environment) -> bool:
    """Return whether users switched the check of the certificate off, by the variable that MLflow's client reads."""
    return environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")


def _auth_headers(environment: Environment) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    return {"Authorization": aiohttp.encode_basic_auth(user, password, encoding="utf-8")} if user and password else {}
