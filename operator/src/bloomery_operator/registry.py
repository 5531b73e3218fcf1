"""MLflow's registry over REST: which version a name, an alias or a run means, and who serves it.

No MLflow client is needed for that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yarl import URL

from bloomery_operator.answers import RecentAnswers, read_bounded
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict

TIMEOUT_SECONDS = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
LARGEST_ANSWER = 4 * 1024 * 1024
_API = "api/2.0/mlflow"
_URI_TAG, _DIGEST_TAG, _LABEL_TAG = "bloomery.dev/uri", "bloomery.dev/digest", "bloomery.dev/version-label"
_JOB_TAG, _DATASET_TAG = "bloomery.dev/trainingjob", "bloomery.dev/dataset"
_DATASET_VERSION_TAG = "bloomery.dev/dataset-version"
_SERVED_BY = "bloomery.dev/served-by"
_PAGE = 200

Environment = Mapping[str, str]


class _Refused(Exception):
    """MLflow says that there is no such thing."""


class _Document(BaseModel):
    """A part of an answer, as far as it is read here."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: object) -> object:
        """What is null counts as not there."""
        if not isinstance(document, dict):
            return document
        return {field: value for field, value in document.items() if value is not None}


class _Tag(_Document):
    key: str
    value: str = ""


class _Version(_Document):
    name: str
    version: int
    run_id: str | None = None
    source: str = ""
    status: str = "READY"
    status_message: str = ""
    tags: tuple[_Tag, ...] = ()


class _Answer(_Document):
    """All that MLflow may answer to what it is asked here; what is wrong is said in ``message``."""

    model_version: _Version | None = None
    model_versions: tuple[_Version, ...] = ()
    next_page_token: str = ""
    artifact_uri: str = ""
    message: str = ""


@dataclass(frozen=True)
class _Trouble:
    detail: str
    until: float


class _Lines:
    """Which servers do not answer: they are left alone for a while, and then one question finds out for all.

    So a server that hangs holds up one of those who ask, and not all of them, each for as long as a question may take.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    @contextmanager
    def to(self, server: str) -> Iterator[None]:
        """Ask within the block; raises at once what the last question met, while another try makes no sense."""
        trouble = self._troubles.get(server)
        if trouble is not None:
            if self._clock() < trouble.until:
                raise TimeoutError(trouble.detail)
            self._note(server, trouble.detail, TIMEOUT_SECONDS)
        try:
            yield
        except (aiohttp.ClientError, TimeoutError) as error:
            self._note(server, _words(error), self._seconds)
            raise
        self._troubles.pop(server, None)

    def _note(self, server: str, detail: str, seconds: float) -> None:
        self._troubles[server] = _Trouble(detail, self._clock() + seconds)


class RegistryClient:
    """Asks the MLflow server that the pods of a namespace use, with their credentials.

    What a reference means is asked at most once in ``every`` seconds, however many events ask for it.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, every: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session
        self._lines = _Lines(every, clock=clock)
        self._found: RecentAnswers[tuple[object, ...], ServedModel | Verdict] = RecentAnswers(every, clock=clock)

    async def find(self, environment: Environment, reference: str) -> ServedModel | Verdict:
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
            return Verdict(
                Reason.REGISTRY_NOT_CONFIGURED, f"{reference} can not be found: MLFLOW_TRACKING_URI is not set."
            )
        # Who has other credentials may be told something else.
        question = (server, *_headers(environment).values(), reference)
        found = self._found.get(question)
        if found is None:
            found = self._found.put(question, await self._find(server, environment, reference))
        return found

    async def tag_served(
        self, environment: Environment, model: tuple[str, str], *, service: str, variants: str
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

    async def list_served(self, environment: Environment, namespace: str) -> list[tuple[str, tuple[str, str]]]:
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
                page = await self._ask(server, environment, query) or _Answer()
                for version in page.model_versions:
                    keys = [tag.key for tag in version.tags if tag.key.startswith(prefix)]
                    model = (version.name, str(version.version))
                    notes += [(f"{namespace}/{key.removeprefix(prefix)}", model) for key in keys]
                token = page.next_page_token
                if not token:
                    return notes
        except (_Refused, aiohttp.ClientError, TimeoutError, ValueError):
            return []

    async def _find(self, server: str, environment: Environment, reference: str) -> ServedModel | Verdict:
        try:
            version = await self._version(server, environment, reference)
            if version is None:
                return Verdict(Reason.MODEL_NOT_FOUND, f"MLflow's registry has no {reference}.")
            if version.status != "READY":
                said = version.status_message or version.status
                return Verdict(Reason.MODEL_NOT_READY, f"{reference} is not ready in MLflow's registry: {said}")
            return await self._served(server, environment, version)
        except _Refused as error:
            return Verdict(Reason.MODEL_NOT_FOUND, f"MLflow's registry has no {reference}: {error}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Verdict(Reason.REGISTRY_UNREACHABLE, f"MLflow could not be asked for {reference}: {_words(error)}")

    async def _served(self, server: str, environment: Environment, version: _Version) -> ServedModel:
        tags = {tag.key: tag.value for tag in version.tags}
        uri = tags.get(_URI_TAG)
        if uri is None:
            query = f"model-versions/get-download-uri?name={quote(version.name)}&version={version.version}"
            answer = await self._ask(server, environment, query) or _Answer()
            uri = answer.artifact_uri or version.source
        return ServedModel(
            uri=uri,
            # A digest speaks of the folder in the store, not of what MLflow keeps.
            digest=tags.get(_DIGEST_TAG) if _URI_TAG in tags else None,
            name=version.name,
            version=str(version.version),
            run_id=version.run_id or None,
            training_job=tags.get(_JOB_TAG),
            dataset=tags.get(_DATASET_TAG),
            dataset_version=tags.get(_DATASET_VERSION_TAG),
        )

    async def _version(self, server: str, environment: Environment, reference: str) -> _Version | None:
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

    async def _search(self, server: str, environment: Environment, condition: str) -> _Version | None:
        answer = await self._ask(server, environment, f"model-versions/search?filter={quote(condition)}") or _Answer()
        return max(answer.model_versions, key=lambda version: version.version, default=None)

    async def _get(self, server: str, environment: Environment, query: str) -> _Version | None:
        answer = await self._ask(server, environment, query)
        if answer is not None and answer.model_version is None:
            raise ValueError("the answer names no version")
        return answer.model_version if answer is not None else None

    async def _ask(
        self,
        server: str,
        environment: Environment,
        query: str,
        *,
        body: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> _Answer | None:
        url, headers = URL(f"{server}/{_API}/{query}", encoded=True), _headers(environment)
        method = method or ("POST" if body else "GET")
        with self._lines.to(server):
            # The address is the namespace's own: it leads where it says, and to no other place.
            async with self._session.request(
                method, url, json=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                content = await read_bounded(response, LARGEST_ANSWER)
        answer = _read(response, content)
        if response.status == 404:
            return None
        if response.status >= 400:
            kind = _Refused if response.status == 400 else ValueError
            raise kind((answer.message or str(response.reason))[:300])
        return answer


def _read(response: aiohttp.ClientResponse, content: bytes) -> _Answer:
    """Return what MLflow answered; a proxy before it, or accounts of its own, may answer something else."""
    said = f"the answer is {response.status} {response.reason}"
    if 300 <= response.status < 400:
        raise ValueError(f"{said}: MLFLOW_TRACKING_URI must be the address that it leads to")
    try:
        return _Answer.model_validate_json(content)
    except ValidationError as error:
        if response.ok:
            raise ValueError(f"{said}, but not as MLflow's registry answers") from error
        hint = "; check the credentials in the storage Secret" if response.status in (401, 403) else ""
        raise ValueError(f"{said}{hint}") from error


def _words(error: Exception) -> str:
    """Say why there is no answer; aiohttp says nothing of one that did not come in time."""
    silence = f"no answer within {TIMEOUT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else type(error).__name__
    return str(error) or silence


def _server(environment: Environment) -> str | None:
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


def _headers(environment: Environment) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    return {"Authorization": aiohttp.encode_basic_auth(user, password, encoding="utf-8")} if user and password else {}
