"""All combinations of values in the docs: accepted by a real API server and by kubeconform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from dev.binaries import module_folder
from testing.gateway_api import GATEWAY_API
from testing.waiting import eventually
from tests.component.chart.rendering import REPO, VARIANTS, Chart, Object, pod_templates

if TYPE_CHECKING:
    from testing.api_server import ApiServer

PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
GOLDEN = REPO / "tests" / "golden"
FOREIGN_KINDS = {
    GATEWAY_API: ("config/crd/standard/gateway.networking.k8s.io_gateways.yaml",),
    PROMETHEUS_OPERATOR: (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}


@pytest.fixture(scope="module")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


@pytest.fixture(scope="module")
def full_server(gateway_api: ApiServer) -> ApiServer:
    """Give the API server with every kind that the chart may make."""
    for module, files in FOREIGN_KINDS.items():
        subprocess.run(["go", "mod", "download", module], check=True, timeout=300, cwd="/")
        folder = module_folder(*module.split("@"))
        for file in files:
            for step in (("apply", "--server-side", "-f"), ("wait", "--for=condition=Established", "-f")):
                done = gateway_api.kubectl(*step, str(folder / file))
                assert done.returncode == 0, done.stderr
    return gateway_api


@pytest.mark.feature("O1")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_real_api_server_takes_every_object(
    chart: Chart, full_server: ApiServer, namespace: str, variant: str
) -> None:
    manifests = chart.render(VARIANTS[variant])
    for manifest in manifests:
        if "namespace" in manifest["metadata"]:
            manifest["metadata"]["namespace"] = namespace
    dry = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    done = full_server.kubectl(*dry, "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": manifests})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(manifests)


@pytest.fixture(scope="module")
def schemas(chart: Chart, full_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the JSON schema of every kind that the chart makes, as the API server describes it."""
    folder = tmp_path_factory.mktemp("schemas")
    made = {(m["apiVersion"], m["kind"]) for values in VARIANTS.values() for m in chart.render(values)}
    with full_server.http() as client:
        for version, kind in sorted(made):
            # A new kind is described a moment after it can be used.
            schema = eventually(partial(schema_of, client, version, kind), f"{kind} is described")
            group, _, short = version.rpartition("/")
            (folder / f"{kind.lower()}_{group or short}_{short}.json").write_text(json.dumps(schema))
    return folder


def schema_of(client: httpx.Client, version: str, kind: str) -> Object | None:
    """A kind's JSON schema, or None where the API server has none yet."""
    group, _, short = version.rpartition("/")
    paths = client.get("/openapi/v3").json()["paths"]
    entry = paths.get(f"apis/{version}" if group else f"api/{version}")
    components = client.get(entry["serverRelativeURL"]).json()["components"] if entry else {"schemas": {}}
    expected = {"group": group, "kind": kind, "version": short}
    known: dict[str, Object] = components["schemas"]
    names = [name for name, schema in known.items() if expected in schema.get("x-kubernetes-group-version-kind", [])]
    for schema in known.values():
        refuse_unknown_fields(schema)
    return {"$ref": f"#/components/schemas/{names[0]}", "components": components} if names else None


def refuse_unknown_fields(schema: Any) -> None:
    """Close every object that names its fields and is not left open on purpose."""
    if not isinstance(schema, dict):
        return
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for below in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        refuse_unknown_fields(below)


def conform(kubeconform: Path, schemas: Path, manifests: list[Object]) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{.ResourceKind}}}}_{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}.json"
    command = [str(kubeconform), "-strict", "-summary", "-schema-location", location, "-"]
    text = yaml.safe_dump_all(manifests)
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.feature("O1")
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubeconform_finds_nothing(chart: Chart, program: Callable[[str], Path], schemas: Path, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant])
    done = conform(program("kubeconform"), schemas, manifests)
    assert done.returncode == 0, done.stdout
    assert f"Valid: {len(manifests)}, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_kubeconform_would_find_a_mistyped_field(chart: Chart, program: Callable[[str], Path], schemas: Path) -> None:
    manifests = chart.render({})
    for _, template in pod_templates(manifests):
        template["spec"]["containers"][0]["imagePullPolice"] = "Never"
    done = conform(program("kubeconform"), schemas, manifests)
    assert done.returncode != 0
    assert "imagePullPolice" in done.stdout


def created_where_restricted_is_enforced(server: ApiServer, namespace: str, name: str, spec: Object) -> str:
    """Return the API server's rejection of a pod in such a namespace; empty where it accepts it."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    assert server.kubectl("label", "--overwrite", "namespace", namespace, label).returncode == 0
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    done = server.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=pod)
    return done.stderr if done.returncode else ""


@pytest.mark.feature("O3")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_charts_pods_are_admitted_where_restricted_is_enforced(
    chart: Chart, apiserver: ApiServer, namespace: str, variant: str
) -> None:
    templates = dict(pod_templates(chart.render(VARIANTS[variant])))
    assert "bloomery-operator" in templates
    for name, template in templates.items():
        # A priority class of a page's example is not there.
        spec = template["spec"] | {"priorityClassName": ""}
        assert created_where_restricted_is_enforced(apiserver, namespace, name, spec) == ""


CHILDREN = {
    f"{file.stem} {manifest['kind']}": manifest["spec"]["template"]["spec"]
    for file in sorted(GOLDEN.glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    if manifest["kind"] in {"Job", "Deployment"}
}


@pytest.mark.feature("O3")
@pytest.mark.parametrize("child", CHILDREN)
def test_what_the_operator_makes_is_admitted_where_restricted_is_enforced(
    apiserver: ApiServer, namespace: str, child: str
) -> None:
    # Of classes that are not there, the server knows nothing.
    spec = CHILDREN[child] | {"priorityClassName": "", "runtimeClassName": None}
    assert created_where_restricted_is_enforced(apiserver, namespace, "child", spec) == ""


def test_the_operators_children_are_found() -> None:
    assert {name.split()[0].split("-")[0] for name in CHILDREN} == {
        "predict",
        "prepare",
        "register",
        "serve",
        "tensorboard",
        "train",
    }


def test_a_pod_that_is_not_restricted_would_be_refused(apiserver: ApiServer, namespace: str) -> None:
    (spec, *_) = CHILDREN.values()
    words = created_where_restricted_is_enforced(apiserver, namespace, "child", spec | {"securityContext": {}})
    assert 'violates PodSecurity "restricted' in words
