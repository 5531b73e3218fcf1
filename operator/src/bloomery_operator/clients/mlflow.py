"""Client of MLflow's model registry: resolves references to model versions, and tags the versions that are served.

It uses the REST API directly, so that the operator needs no MLflow package.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import aiohttp
from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yarl import URL

from bloomery_operator.api.reasons import Reason
from bloomery_operator.clients.http import NO_PROXIES, CircuitBreaker, Proxies, describe_error, read_limited
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict

MAX_RESPONSE_BYTES = 4 * 1024 * 1024
_MAX_MESSAGE_CHARACTERS = 300
_API = "api/2.0/mlflow"
_URI_TAG, _DIGEST_TAG, _LABEL_TAG = "bloomery.dev/uri", "bloomery.dev/digest", "bloomery.dev/version-label"
_JOB_TAG, _DATASET_TAG = "bloomery.dev/trainingjob", "bloomery.dev/dataset"
_DATASET_VERSION_TAG = "bloomery.dev/dataset-version"
_SERVED_BY = "bloomery.dev/served-by"
_PAGE_SIZE = 200

Environment = Mapping[str, str]


class _RequestRejected(Exception):
    """MLflow rejected the request as invalid."""


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
    status_message: str = ""
    tags: tuple[_Tag, ...] = ()


class _Response(_Document):
    """The fields of all responses that are used here; ``message`` describes an error."""

    model_version: _ModelVersion | None = None
    model_versions: tuple[_ModelVersion, ...] = ()
    next_page_token: str = ""
    artifact_uri: str = ""
    message: str = ""


class MlflowClient:
    """Sends requests to the MLflow server that the pods of a namespace use, with their credentials.

    A resolved reference is cached for ``poll_seconds``, however many events need it. A server that does not answer
    gets no requests for as long.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        poll_seconds: float = 0.0,
        timeout_seconds: float = 10.0,
        proxies: Proxies = NO_PROXIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use an HTTP session, which the caller closes."""
        self._session = session
        self._proxies = proxies
        self._timeout_seconds = timeout_seconds
        self._circuits = CircuitBreaker(open_seconds=poll_seconds, probe_seconds=timeout_seconds, clock=clock)
        self._resolved: TTLCache[tuple[str, ...], ServedModel | Verdict, float] = TTLCache(
            math.inf, poll_seconds, timer=clock
        )

    async def find(self, environment: Environment, reference: str) -> ServedModel | Verdict:
        """Return the model that ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` refers to now.

        Args:
            environment: the pods' variables: MLFLOW_TRACKING_URI, and the credentials if the server needs any.
            reference: its version is a number, or the label that a user gave the version.

        Returns:
            The model, or the reason why it cannot be had now; a later call may succeed. A model that a TrainingJob
            made is at its address in the store; any other is at MLflow's own address, and has no digest.
        """
        server = _server_url(environment)
        if server is None:
            return Verdict(
                Reason.REGISTRY_NOT_CONFIGURED, f"{reference} cannot be resolved: MLFLOW_TRACKING_URI is not set."
            )
        # The credentials are part of the key: another user may see other versions.
        key = (server, *_auth_headers(environment).values(), reference)
        resolved = self._resolved.get(key)
        if resolved is None:
            resolved = self._resolved[key] = await self._resolve(server, environment, reference)
        return resolved

    async def tag_served(
        self, environment: Environment, model: tuple[str, str], *, service: str, variants: str
    ) -> bool:
        """Set the tag of a model version that names the service and the variants that serve it.

        Args:
            environment: the pods' variables, as for ``find``.
            model: name and version of the model.
            service: NAMESPACE/NAME of the InferenceService.
            variants: value of the tag; an empty one removes the tag.

        Returns:
            Whether MLflow accepted the change.
        """
        server = _server_url(environment)
        if server is None:
            return False
        name, version = model
        tag = {"name": name, "version": version, "key": _served_tag(service)}
        try:
            if variants:
                await self._request(server, environment, "model-versions/set-tag", body=tag | {"value": variants})
            else:
                await self._request(server, environment, "model-versions/delete-tag", body=tag, method="DELETE")
        except (_RequestRejected, aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return True

    async def list_served(self, environment: Environment, namespace: str) -> list[tuple[str, tuple[str, str]]]:
        """Return the tags that services of a namespace have on models; an empty list if MLflow does not answer.

        Returns:
            For each tag NAMESPACE/NAME of the service, and name and version of the model.
        """
        server = _server_url(environment)
        if server is None:
            return []
        prefix, token = f"{_SERVED_BY}.{namespace}.", ""
        served: list[tuple[str, tuple[str, str]]] = []
        try:
            while True:
                query = f"model-versions/search?max_results={_PAGE_SIZE}&page_token={quote(token)}"
                page = await self._request(server, environment, query) or _Response()
                for version in page.model_versions:
                    model = (version.name, str(version.version))
                    keys = [tag.key for tag in version.tags if tag.key.startswith(prefix)]
                    served += [(f"{namespace}/{key.removeprefix(prefix)}", model) for key in keys]
                token = page.next_page_token
                if not token:
                    return served
        except (_RequestRejected, aiohttp.ClientError, TimeoutError, ValueError):
            return []

    async def _resolve(self, server: str, environment: Environment, reference: str) -> ServedModel | Verdict:
        try:
            version = await self._find_version(server, environment, reference)
            if version is None:
                return Verdict(Reason.MODEL_NOT_FOUND, f"MLflow's registry has no {reference}.")
            if version.status != "READY":
                detail = version.status_message or version.status
                return Verdict(Reason.MODEL_NOT_READY, f"{reference} is not ready in MLflow's registry: {detail}")
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
        query = f"model-versions/search?filter={quote(condition)}"
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
            # Users of the namespace choose the address: a redirect must not lead the operator anywhere else.
            async with self._session.request(
                method,
                url,
                json=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                proxy=self._proxies.proxy_for(url),
                ssl=not _is_insecure(environment),
            ) as response:
                content = await read_limited(response, MAX_RESPONSE_BYTES)
        document = _parse_response(response, content)
        if response.status == 404:
            return None
        if response.status >= 400:
            error = _RequestRejected if response.status == 400 else ValueError
            raise error((document.message or str(response.reason))[:_MAX_MESSAGE_CHARACTERS])
        return document


def _parse_response(response: aiohttp.ClientResponse, content: bytes) -> _Response:
    """Return a response as a document.

    Raises:
        ValueError: it is not from MLflow's API, for instance from a proxy in front of it.
    """
    summary = f"the answer is {response.status} {response.reason}"
    if 300 <= response.status < 400:
        raise ValueError(f"{summary}: set MLFLOW_TRACKING_URI to the address that it redirects to")
    try:
        return _Response.model_validate_json(content)
    except ValidationError as error:
        if response.ok:
            raise ValueError(f"{summary}, but it is not from MLflow's registry") from error
        hint = "; check the credentials in the storage Secret" if response.status in (401, 403) else ""
        raise ValueError(f"{summary}{hint}") from error


def _server_url(environment: Environment) -> str | None:
    url = environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    return url if url.startswith(("http://", "https://")) else None


def _served_tag(service: str) -> str:
    return f"{_SERVED_BY}.{service.replace('/', '.')}"


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
