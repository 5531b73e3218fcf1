"""The MLflow server of a namespace, reached through kubectl if it runs inside the cluster."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from kubectl_bloomery.cluster.dns import is_cluster_name, is_local, service_of_host
from kubectl_bloomery.cluster.kubectl import Kubectl, Manifest
from kubectl_bloomery.errors import CommandError

if TYPE_CHECKING:
    import httpx

DEFAULT_SECRET = "bloomery-storage"
"""The Secret of a namespace that contains MLflow's address, unless the operator is set to another name."""
RESPONSE_TIMEOUT_SECONDS = 60.0
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Mlflow:
    """A client for the parts of MLflow's REST API that the commands need.

    Attributes:
        extensions: httpx's request extensions; name the host of the certificate if the URL has another one.
    """

    client: httpx.Client
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Return the id of the newest run of an experiment with these tags, or None."""
        answer = self._request_json(
            "GET", "api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": experiment}
        )
        if answer is None:
            return None
        tag_filter = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        query = {"experiment_ids": [answer["experiment"]["experiment_id"]], "filter": tag_filter, "max_results": 1}
        runs = (self._request_json("POST", "api/2.0/mlflow/runs/search", json=query) or {}).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def artifact(self, run: str, name: str) -> bytes | None:
        """Return the content of a run's artifact, or None if the run has no such artifact."""
        # MLflow answers 500 to a request for a file that its store lacks.
        listing = self._request_json("GET", "api/2.0/mlflow/artifacts/list", params={"run_id": run}) or {}
        if name not in [file["path"] for file in listing.get("files", [])]:
            return None
        response = self._request("GET", "get-artifact", params={"path": name, "run_uuid": run})
        return None if response is None else response.content

    def _request_json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any] | None:
        response = self._request(method, path, **kwargs)
        return None if response is None else response.json()

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response | None:
        """Send a request; return None for the status 404."""
        import httpx

        try:
            response = self.client.request(method, path, extensions=dict(self.extensions), **kwargs)
        except httpx.HTTPError as error:
            raise CommandError(
                f"MLflow at {self.client.base_url} does not answer: {str(error).rstrip('.')}."
            ) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.is_error:
            raise CommandError(f"MLflow at {self.client.base_url} answers {_error_text(response)}")
        return response


def _error_text(response: httpx.Response) -> str:
    """Return the status and MLflow's message; of a page, as proxies and MLflow's own server send them, the status."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if "html" in response.headers.get("content-type", ""):
        return f"{status}."
    text = " ".join(response.text.split())[:_MAX_ERROR_LENGTH]
    return f"{status}: {text}" if text else f"{status}."


@contextmanager
def open_mlflow(kubectl: Kubectl, owner: Manifest) -> Iterator[Mlflow]:
    """Connect to the MLflow server that the Jobs of an object use.

    Raises:
        CommandError: they use none, or the server cannot be reached.
    """
    import httpx

    secret = _storage_secret(kubectl, owner)
    settings = _read_secret(kubectl, secret)
    uri = settings.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not uri:
        raise CommandError(f"The Secret {secret} names no MLflow (MLFLOW_TRACKING_URI).")
    parts = urlsplit(uri)
    service = _mlflow_service(kubectl, parts.hostname or "", owner["metadata"]["namespace"])
    if service is not None:
        with _forward_to_mlflow(kubectl.context, *service, parts, settings) as mlflow:
            yield mlflow
        return
    with httpx.Client(
        base_url=uri,
        auth=_basic_auth(settings),
        headers=_token_header(settings),
        timeout=RESPONSE_TIMEOUT_SECONDS,
        trust_env=not is_local(parts.hostname or ""),
    ) as client:
        yield Mlflow(client)


def _mlflow_service(kubectl: Kubectl, host: str, namespace: str) -> tuple[str, str] | None:
    """Return name and namespace of the Service behind a host name; None if the host is outside the cluster."""
    service = service_of_host(host, namespace)
    if service is None or is_cluster_name(host) or _service_exists(kubectl, *service):
        return service
    return None


def _service_exists(kubectl: Kubectl, name: str, namespace: str) -> bool:
    try:
        return bool(Kubectl(namespace, kubectl.context).run("get", "service", name, "--output=name"))
    except CommandError:
        return False


@contextmanager
def _forward_to_mlflow(
    context: str | None, name: str, namespace: str, uri: SplitResult, settings: Mapping[str, str]
) -> Iterator[Mlflow]:
    """Connect to a Service of the cluster through ``kubectl port-forward``."""
    import httpx

    port = uri.port or (443 if uri.scheme == "https" else 80)
    # MLflow accepts only requests for its own host names.
    headers = _token_header(settings) | {"Host": uri.netloc.rpartition("@")[2]}
    with (
        Kubectl(namespace, context).forward(f"service/{name}", port) as local_url,
        httpx.Client(
            base_url=f"{uri.scheme}://{urlsplit(local_url).netloc}{uri.path}",
            auth=_basic_auth(settings),
            headers=headers,
            timeout=RESPONSE_TIMEOUT_SECONDS,
            verify=httpx.create_ssl_context(),
            trust_env=False,
        ) as client,
    ):
        yield Mlflow(client, {"sni_hostname": uri.hostname or ""})


def _storage_secret(kubectl: Kubectl, owner: Manifest) -> str:
    """Return the name of the Secret from which an object's Jobs read the addresses of the store and of MLflow."""
    label = f"bloomery.dev/{owner['kind'].lower()}"
    for job in kubectl.select("jobs.batch", {label: owner["metadata"]["name"]}):
        for source in job["spec"]["template"]["spec"]["containers"][0].get("envFrom", []):
            # The Secret of a Dataset's own source has a prefix.
            if "secretRef" in source and "prefix" not in source:
                return str(source["secretRef"]["name"])
    return DEFAULT_SECRET


def _read_secret(kubectl: Kubectl, secret: str) -> dict[str, str]:
    data = kubectl.get("secret", secret).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace").strip() for name, value in data.items()}


def _basic_auth(settings: Mapping[str, str]) -> tuple[str, str] | None:
    user = settings.get("MLFLOW_TRACKING_USERNAME")
    return (user, settings.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None


def _token_header(settings: Mapping[str, str]) -> dict[str, str]:
    token = settings.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
