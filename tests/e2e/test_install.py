"""On the real cluster: upgrade under load, uninstall and install again, install without rights in the cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dev.paths import ROOT, target
from testing.api_server import KUBE_VERSION
from testing.cluster_store import class_folders, digit_images, put_files
from testing.dev_cluster import SYSTEM, Kubectl, eventually, gateway_address
from testing.load import Load
from tests.e2e.chart import CHART, VALUES, helm, install, namespaced_values, service_account_config
from tests.e2e.test_serving import ask, assert_nothing_lost, key_of, make_model, serve, variant
from tests.e2e.test_training import ENDLESS, NAMES, completed, start, status_of, step

pytestmark = pytest.mark.extended

SCHEMA = "charts/bloomery/values.schema.json"
"""The chart that came before is the last one without this file: of the same kinds, without a Lease."""
RAW = "s3://bloomery/raw/e2e-install"
MODEL = "s3://bloomery/models/e2e-install"
TEAM = "e2e-team"


def git(*words: str) -> str:
    """Run git in this checkout, which must work."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Give helm's words for the chart that came before."""
    if git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone has no earlier chart to upgrade from")
    folder = tmp_path_factory.mktemp("previous")
    added = git("log", "--max-count=1", "--diff-filter=A", "--format=%H", "--", SCHEMA)
    git("archive", "--format=tar", f"--output={folder / 'chart.tar'}", f"{added}^", "charts/bloomery")
    subprocess.run(["tar", "--extract", f"--file={folder / 'chart.tar'}", f"--directory={folder}"], check=True)
    assert not (folder / SCHEMA).exists()
    return [str(folder / "charts" / "bloomery"), f"--values={VALUES}"]


@pytest.fixture(scope="module")
def image() -> bytes:
    return digit_images({"null": 0}, each=1)["null"][0]


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl], tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Give a namespace with a prepared Dataset and a service that answers."""
    kubectl = make_namespace("e2e-install")
    put_files(RAW, class_folders(digit_images(NAMES, each=60)))
    put_files(MODEL, make_model(tmp_path_factory.mktemp("model") / "first"))
    manifest = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "digits"},
        "spec": {"source": {"uri": RAW}},
    }
    assert kubectl.apply(manifest).returncode == 0
    serve(kubectl, "shop", [variant("v1", 100, MODEL)])
    kubectl.wait("dataset/digits", "Ready", seconds=120)
    kubectl.wait("isvc/shop", "Ready", seconds=120)
    return kubectl


def children(kubectl: Kubectl) -> dict[str, str]:
    """The uids of what the operator made, pods too: an upgrade replaces none of them."""
    kinds = "jobs,deployments,pods,services,httproutes,backendtrafficpolicies"
    made = kubectl.get(kinds, "", "--selector=app.kubernetes.io/managed-by=bloomery")
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in made}


@pytest.mark.feature("O1", "O4")
def test_upgrades_lose_no_request_and_a_training_goes_on(
    kubectl: Kubectl, system: Kubectl, previous: list[str], image: bytes
) -> None:
    where = (f"--namespace={SYSTEM}", "--wait", "--timeout=5m")
    helm("upgrade", "--install", "bloomery", *previous, *where)
    start(kubectl, "long", ENDLESS)
    before = step(kubectl, "long", 10)
    url = f"{gateway_address(system)}/{kubectl.namespace}/shop/predict"
    load = Load(kubectl, "load-install").start(url, key=key_of(kubectl, "shop"), image=image, rate=30, count=100_000)
    install()
    after = step(kubectl, "long", before + 20)
    # The chart that came before wrote its version on the store's pod, so this upgrade restarts the store: a training
    # that could not save just then has gone on from its last checkpoint.
    restarts = status_of(kubectl, "long").get("restarts", 0)
    assert restarts <= 1
    made = children(kubectl)
    helm("upgrade", "bloomery", CHART, f"--values={VALUES}", "--set=operator.resources.requests.memory=97Mi", *where)
    later = step(kubectl, "long", after + 20)
    outcome = load.stop()

    assert_nothing_lost(outcome)
    assert outcome.requests > 300
    assert made.items() <= children(kubectl).items()
    kubectl("patch", "tj/long", "--type=merge", '--patch={"spec": {"stop": true}}')
    reason, status = completed(kubectl, "long")
    assert (reason, status.get("restarts", 0), status.get("preemptions", 0)) == ("Stopped", restarts, 0)
    assert status["lastCheckpoint"]["step"] >= later
    assert status["model"]["version"]


@pytest.mark.feature("O1", "O3")
def test_user_objects_survive_an_uninstall_and_reinstall(kubectl: Kubectl, system: Kubectl, image: bytes) -> None:
    key, keys = key_of(kubectl, "shop"), system.secret("bloomery-storage-keys")
    made = children(kubectl)
    jobs = {item["metadata"]["name"]: item["status"]["phase"] for item in kubectl.get("tj")}
    try:
        helm("uninstall", "bloomery", f"--namespace={SYSTEM}", "--wait", "--timeout=3m")
        eventually("the operator is gone", lambda: not system.get("pods"), seconds=60)
        assert len(kubectl.get("dataset")) == 1 and len(kubectl.get("isvc")) == 1
        assert {item["metadata"]["name"]: item["status"]["phase"] for item in kubectl.get("tj")} == jobs
        assert children(kubectl) == made
        assert len(system.get("pvc")) == 2
        system("label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    finally:
        install()
    assert system.secret("bloomery-storage-keys") == keys
    eventually("the service answers again", lambda: answers(kubectl, image), seconds=120, interval=2)
    kubectl.wait("isvc/shop", "Ready", seconds=60)
    assert key_of(kubectl, "shop") == key
    assert children(kubectl) == made
    # A spec change of now is followed by the operator of now.
    serve(kubectl, "shop", [variant("v1", 100, MODEL), variant("v2", 0, MODEL)])
    kubectl.wait("isvc/shop", "Ready", seconds=120)
    eventually("the second variant", lambda: len(kubectl.get("isvc", "shop")["status"]["variants"]) == 2, seconds=60)


def answers(kubectl: Kubectl, image: bytes) -> bool:
    try:
        return ask(kubectl, "shop", image).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def routes_of_admins(system: Kubectl) -> Iterator[None]:
    """Let admins of namespaces write routes, as docs/install.md describes it."""

    def apply_access(*words: str) -> None:
        # helm asks no cluster for its version here, and one that was built from source knows none.
        template = ("template", "bloomery", CHART, f"--values={VALUES}", f"--kube-version={KUBE_VERSION}", *words)
        roles = helm(*template, f"--namespace={SYSTEM}", "--show-only=templates/access.yaml")
        system("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=roles)

    apply_access("--set=gateway.grantRoutesToAdmins=true")
    yield
    apply_access()


@pytest.fixture
def team(
    make_namespace: Callable[[str], Kubectl], without_operator: None, routes_of_admins: None, tmp_path: Path
) -> dict[str, str]:
    """Give the environment of somebody whose only right is the role admin in a namespace."""
    kubectl = make_namespace(TEAM)
    kubectl("create", "serviceaccount", "ana")
    kubectl("create", "rolebinding", "ana", "--clusterrole=admin", f"--serviceaccount={TEAM}:ana")
    return target().environment | {"KUBECONFIG": str(service_account_config(kubectl, "ana", tmp_path))}


@pytest.mark.feature("O1", "O3")
def test_a_team_without_cluster_rights_installs_its_own_operator(
    kubectl: Kubectl, team: dict[str, str], tmp_path: Path
) -> None:
    values = namespaced_values(TEAM, tmp_path, {"networkPolicy": {"enabled": True}})
    where = (f"--namespace={TEAM}", "--wait", "--timeout=2m", f"--values={values}")
    helm("install", "bloomery", CHART, *where, environment=team)
    try:
        mine = Kubectl(TEAM)
        raw = {"uri": RAW}
        dataset = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "digits"}}
        assert mine.apply(dataset | {"spec": {"source": raw}}).returncode == 0
        mine.wait("dataset/digits", "Ready", seconds=120)
        serve(mine, "shop", [variant("v1", 100, MODEL)])
        mine.wait("isvc/shop", "Ready", seconds=120)
        log = mine("logs", "deployment/bloomery-operator")
        assert "Traceback" not in log and "forbidden" not in log.lower(), log[-4000:]
        mine("delete", "dataset/digits", "isvc/shop")
    finally:
        helm("uninstall", "bloomery", f"--namespace={TEAM}", environment=team)
