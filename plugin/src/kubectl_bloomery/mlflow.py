"""The MLflow server that a namespace uses, reached through kubectl where it is inside the cluster."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kubectl_bloomery.kubectl import CommandError, Kubectl

if TYPE_CHECKING:
    import httpx

SECRET = "bloomery-storage"
"""The Secret of each namespace that says where MLflow is."""
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Mlflow:
    """A few questions to MLflow's REST API."""

    client: httpx.Client

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Return the newest run of an experiment with these tags, if there is one."""
        found = self._ask("GET", "api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": experiment})
        if found is None:
            return None
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        query = {"experiment_ids": [found["experiment"]["experiment_id"]], "filter": wanted, "max_results": 1}
        runs = (self._ask("POST", "api/2.0/mlflow/runs/search", json=query) or {}).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def artifact(self, run: str, path: str) -> bytes | None:
        """Return a file of a run, None where there is none."""
        response = self._request("GET", "get-artifact", params={"path": path, "run_uuid": run})
        return None if response is None else response.content

    def _ask(self, method: str, path: str, **words: Any) -> dict[str, Any] | None:
        response = self._request(method, path, **words)
        return None if response is None else response.json()

    def _request(self, method: str, path: str, **words: Any) -> httpx.Response | None:
        import httpx

        try:
            response = self.client.request(method, path, **words)
        except httpx.HTTPError as error:
            raise CommandError(f"MLflow at {self.client.base_url} does not answer: {error}.") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.is_error:
            said = " ".join(response.text.split())[:300]
            raise CommandError(f"MLflow at {self.client.base_url} answers {response.status_code}: {said}")
        return response


@contextmanager
def open_mlflow(kubectl: Kubectl, namespace: str) -> Iterator[Mlflow]:
    """Give the MLflow server that a namespace uses.

    Raises:
        CommandError: it uses none, or the server may not be reached.
    """
    import httpx

    known = _read_secret(kubectl)
    uri = known.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not uri:
        raise CommandError(f"The Secret {SECRET} names no MLflow (MLFLOW_TRACKING_URI).")
    parts = urlsplit(uri)
    inside = service_behind(parts.hostname or "", namespace)
    auth, token = _auth(known), _token(known)
    if inside is None:
        with httpx.Client(base_url=uri, auth=auth, headers=token, timeout=ANSWER_SECONDS) as client:
            yield Mlflow(client)
        return
    name, home = inside
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # MLflow answers to the names that it knows itself by.
    headers = token | {"Host": parts.netloc.rpartition("@")[2]}
    with (
        Kubectl(home, kubectl.context).forward(f"service/{name}", port) as local,
        httpx.Client(
            base_url=f"{local}{parts.path}", auth=auth, headers=headers, timeout=ANSWER_SECONDS, trust_env=False
        ) as client,
    ):
        yield Mlflow(client)


def service_behind(host: str, namespace: str) -> tuple[str, str] | None:
    """Return name and namespace of the Service that a host name means inside the cluster; None for any other host."""
    name, *rest = host.split(".")
    if host == "localhost" or (len(rest) > 1 and rest[1] != "svc"):
        return None
    return name, rest[0] if rest else namespace


def _read_secret(kubectl: Kubectl) -> dict[str, str]:
    data = kubectl.get("secret", SECRET).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace").strip() for name, value in data.items()}


def _auth(known: Mapping[str, str]) -> tuple[str, str] | None:
    user = known.get("MLFLOW_TRACKING_USERNAME")
    return (user, known.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None


def _token(known: Mapping[str, str]) -> dict[str, str]:
    token = known.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
