"""Installation for some namespaces, by a user with rights in these alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from testing.operator_process import OperatorProcess, running
from testing.samples import dataset, inference_service, prepared, trained, training_job
from testing.simulated_controllers import World
from tests.component.chart.rendering import CHART, NO_CLUSTER_RIGHTS, Chart, Values

if TYPE_CHECKING:
    from testing.api_server import ApiServer

RELEASE = "bloomery"
ADMIN = [
    *(f"system:aggregate-to-{role}" for role in ("admin", "edit", "view")),
    *(f"{RELEASE}-{role}" for role in ("admin", "edit", "view")),
]
"""The parts of the role admin, which a controller aggregates that does not run here."""


@dataclass(frozen=True)
class Team:
    """Somebody with the role admin in some namespaces, and the ways to the API server in their name."""

    server: ApiServer
    chart: Chart
    kubeconfig: Path
    home: str
    namespaces: tuple[str, str]

    @property
    def values(self) -> Values:
        return NO_CLUSTER_RIGHTS | {"namespaces": list(self.namespaces), "networkPolicy": {"enabled": True}}

    def helm(self, verb: str, *more: str) -> str:
        """Run helm in the team's name."""
        where = ["--namespace", self.home, "--kubeconfig", str(self.kubeconfig)]
        done = self.chart.run(verb, RELEASE, str(CHART), *where, *more, values=self.values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def may(self, verb: str, what: str, *more: str) -> bool:
        """Whether the team may do something."""
        answer = self.server.kubectl("--kubeconfig", str(self.kubeconfig), "auth", "can-i", verb, what, *more)
        return answer.stdout == "yes\n"


def kubeconfig_of(server: ApiServer, account: str, namespace: str, path: Path) -> Path:
    """Write the way to the API server that a ServiceAccount has."""
    token = server.kubectl("create", "token", account, "-n", namespace, "--duration=2h")
    assert token.returncode == 0, token.stderr
    kubeconfig: dict[str, Any] = json.loads(server.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.stdout.strip()}
    path.write_text(json.dumps(kubeconfig))
    return path


def environment_of(deployment: dict[str, Any]) -> list[dict[str, str]]:
    """The variables of a Deployment's container."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


@pytest.fixture(scope="module")
def team(
    gateway_api: ApiServer, program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """Give a team for which the cluster's admin made namespaces, and put the kinds and their roles into the cluster."""
    chart = Chart(program("helm"))
    gateway = NO_CLUSTER_RIGHTS["gateway"] | {"grantRoutesToAdmins": True}
    roles = chart.render({"gateway": gateway}, "--show-only", "templates/access.yaml")
    home, *others = names = ("namespaced-home", "namespaced-a", "namespaced-b")
    steps: list[tuple[tuple[str, ...], str | None]] = [(("apply", "-f", "-"), yaml.safe_dump_all(roles))]
    steps += [(("create", "namespace", name), None) for name in (*names, "namespaced-foreign")]
    steps += [(("create", "serviceaccount", "ana", "-n", home), None)]
    for name in names:
        for role in ADMIN:
            binding = ("create", "rolebinding", role.replace(":", "-"), f"--clusterrole={role}", "-n", name)
            steps.append(((*binding, f"--serviceaccount={home}:ana"), None))
    for arguments, text in steps:
        done = gateway_api.kubectl(*arguments, input=text)
        assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("team")
    kubeconfig = kubeconfig_of(gateway_api, "ana", home, folder / "kubeconfig")
    yield Team(gateway_api, chart, kubeconfig, home, (others[0], others[1]))


@pytest.fixture(scope="module")
def installed(team: Team) -> Team:
    """Give the team its Bloomery, installed by itself; no kubelet is here to run the Job that makes the bucket."""
    team.helm("install", "--no-hooks")
    return team


@pytest.fixture(scope="module")
def operator(installed: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """Give the operator that the team installed: with its Deployment's environment and its ServiceAccount's rights."""
    folder = tmp_path_factory.mktemp("namespaced")
    kubeconfig = kubeconfig_of(installed.server, f"{RELEASE}-operator", installed.home, folder / "kubeconfig")
    read = ("get", "deployment", f"{RELEASE}-operator", "-n", installed.home, "-o", "json")
    entries = environment_of(json.loads(installed.server.kubectl(*read).stdout))
    settings = {entry["name"]: entry.get("value", "") for entry in entries if entry["name"].startswith("BLOOMERY")}
    process = OperatorProcess(kubeconfig=kubeconfig, log=folder / "operator.log", environment=settings)
    with running(process) as operator:
        yield operator


@pytest.mark.feature("O1")
def test_the_team_has_no_rights_outside_of_its_namespaces(team: Team) -> None:
    assert not team.may("list", "namespaces")
    assert not team.may("create", "clusterroles")
    assert not team.may("create", "customresourcedefinitions")
    assert not team.may("list", "datasets", "--all-namespaces")
    assert not team.may("get", "datasets", "--namespace=namespaced-foreign")
    assert team.may("create", "datasets", f"--namespace={team.namespaces[0]}")


@pytest.mark.feature("O1")
@pytest.mark.usefixtures("operator")
def test_a_team_without_cluster_rights_serves_models_in_its_namespaces(installed: Team) -> None:
    with installed.server.http() as client:
        for namespace in installed.namespaces:
            world = World(client, namespace)
            for manifest in (dataset(), training_job(), inference_service()):
                world.create(manifest)
            world.succeed("flowers-prepare", prepared())
            world.succeed("flowers-train", trained())
            revision = world.revision("flowers", "v1")
            world.set_ready(revision, 1)
            world.wait_for_weights("flowers", {revision: 100})
            world.accept_route("flowers")
            world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
            service = world.get("inferenceservices", "flowers")
            assert service is not None
            assert service["status"]["url"] == f"https://models.example.com/{namespace}/flowers"


@pytest.mark.feature("O1")
@pytest.mark.usefixtures("operator")
def test_nothing_happens_in_a_namespace_that_is_not_the_teams(installed: Team) -> None:
    with installed.server.http() as client:
        foreign, own = World(client, "namespaced-foreign"), World(client, installed.namespaces[0])
        foreign.create(dataset("lonely"))
        own.create(dataset("company"))
        own.wait_for("jobs", "company-prepare")
        assert foreign.list("jobs") == []


@pytest.mark.feature("O1")
def test_the_team_upgrades_and_uninstalls_by_itself(installed: Team, operator: OperatorProcess) -> None:
    installed.helm("upgrade", "--no-hooks", "--set", "operator.logFormat=text")
    done = installed.server.kubectl("get", "deployment", f"{RELEASE}-operator", "-n", installed.home, "-o", "json")
    assert {"name": "BLOOMERY_LOG_FORMAT", "value": "text"} in environment_of(json.loads(done.stdout))
    # Its pod goes with the release; here it is a process, which without its rights would complain.
    assert operator.stop() == 0
    operator.assert_calm()
    uninstall = ["uninstall", RELEASE, "--namespace", installed.home, "--kubeconfig", str(installed.kubeconfig)]
    left = installed.chart.plain(*uninstall, "--no-hooks")
    assert left.returncode == 0, left.stderr
    assert "bloomery-storage-keys" in left.stdout  # helm says what it keeps
    assert installed.server.kubectl("get", "crd", "datasets.bloomery.dev").returncode == 0
