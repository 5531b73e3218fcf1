"""The MLflow server that a namespace uses, reached through kubectl where it is inside the cluster."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kubectl_bloomery.addresses import is_here, is_inside, service_behind
from kubectl_bloomery.kubectl import CommandError, Kubectl, Manifest

if TYPE_CHECKING:
    import httpx

SECRET = "bloomery-storage"
"""The Secret of each namespace that says where MLflow is, unless the operator was told another."""
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Mlflow:
    """A few questions to MLflow's REST API.

    Attributes:
        extensions: of each request; says whose certificate it must be where the address is another.
    """

    client: httpx.Client
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Return the newest run of an experiment with these tags, if there is one."""
        found = self._ask("GET", "api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": experiment})
        if found is None:
            return None
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        query = {"experiment_ids": [found["experiment"]["experiment_id"]], "filter": wanted, "max_results": 1}
        runs = (self._ask("POST", "api/2.0/mlflow/runs/search", json=query) or {}).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def artifact(self, run: str, name: str) -> bytes | None:
        """Return a file of a run, None where there is none."""
        # Asked for a file that is not in its store, MLflow answers as if it were broken.
        listed = self._ask("GET", "api/2.0/mlflow/artifacts/list", params={"run_id": run}) or {}
        if name not in [file["path"] for file in listed.get("files", [])]:
            return None
        response = self._request("GET", "get-artifact", params={"path": name, "run_uuid": run})
        return None if response is None else response.content

    def _ask(self, method: str, path: str, **words: Any) -> dict[str, Any] | None:
        response = self._request(method, path, **words)
        return None if response is None else response.json()

    def _request(self, method: str, path: str, **words: Any) -> httpx.Response | None:
        import httpx

        try:
            response = self.client.request(method, path, extensions=dict(self.extensions), **words)
        except httpx.HTTPError as error:
            raise CommandError(f"MLflow at {self.client.base_url} does not answer: {error}.") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.is_error:
            said = " ".join(response.text.split())[:300]
            raise CommandError(f"MLflow at {self.client.base_url} answers {response.status_code}: {said}")
        return response


@contextmanager
def open_mlflow(kubectl: Kubectl, owner: Manifest) -> Iterator[Mlflow]:
    """Give the MLflow server that the Jobs of an object use.

    Raises:
        CommandError: they use none, or the server may not be reached.
    """
    import httpx

    secret = _secret_of(kubectl, owner)
    known = _read_secret(kubectl, secret)
    uri = known.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not uri:
        raise CommandError(f"The Secret {secret} names no MLflow (MLFLOW_TRACKING_URI).")
    parts = urlsplit(uri)
    host = parts.hostname or ""
    inside = service_behind(host, owner["metadata"]["namespace"])
    if inside is not None and not is_inside(host) and not _is_there(kubectl, *inside):
        inside = None
    auth, token = _auth(known), _token(known)
    if inside is None:
        with httpx.Client(
            base_url=uri, auth=auth, headers=token, timeout=ANSWER_SECONDS, trust_env=not is_here(host)
        ) as client:
            yield Mlflow(client)
        return
    name, home = inside
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # MLflow answers to the names that it knows itself by.
    headers = token | {"Host": parts.netloc.rpartition("@")[2]}
    with (
        Kubectl(home, kubectl.context).forward(f"service/{name}", port) as local,
        httpx.Client(
            base_url=f"{parts.scheme}://{urlsplit(local).netloc}{parts.path}",
            auth=auth,
            headers=headers,
            timeout=ANSWER_SECONDS,
            verify=httpx.create_ssl_context(),
            trust_env=False,
        ) as client,
    ):
        yield Mlflow(client, {"sni_hostname": host})


def _is_there(kubectl: Kubectl, name: str, namespace: str) -> bool:
    try:
        return bool(Kubectl(namespace, kubectl.context).run("get", "service", name, "--output=name"))
    except CommandError:
        return False


def _secret_of(kubectl: Kubectl, owner: Manifest) -> str:
    """Return the name of the Secret that an object's Jobs have the store's and MLflow's address of."""
    label = f"bloomery.dev/{owner['kind'].lower()}"
    for job in kubectl.select("jobs.batch", {label: owner["metadata"]["name"]}):
        for source in job["spec"]["template"]["spec"]["containers"][0].get("envFrom", []):
            # Those of a Dataset's own source have a prefix.
            if "secretRef" in source and "prefix" not in source:
                return str(source["secretRef"]["name"])
    return SECRET


def _read_secret(kubectl: Kubectl, secret: str) -> dict[str, str]:
    data = kubectl.get("secret", secret).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace").strip() for name, value in data.items()}


def _auth(known: Mapping[str, str]) -> tuple[str, str] | None:
    user = known.get("MLFLOW_TRACKING_USERNAME")
    return (user, known.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None


def _token(known: Mapping[str, str]) -> dict[str, str]:
    token = known.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
