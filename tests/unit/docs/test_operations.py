"""The metrics and rights on the pages are those of the code and the chart."""

from __future__ import annotations

import re

from bloomery_operator.metrics import OperatorMetrics
from bloomery_serving.settings import Settings
from bloomery_trainer.progress_server import BETTER_NAMES
from tests.unit.docs.figures import progress_figures, served_metrics
from tools.docs_blocks import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
RBAC = (ROOT / "charts" / "bloomery" / "templates" / "rbac.yaml").read_text(encoding="utf-8")

WORDS = {"stage", "mlflow", "lastCheckpoint", "initialModel", "recipe"}
"""Fields of a trainer's progress that are no numbers, and so no metrics."""


def listed(page: str, prefix: str) -> set[str]:
    """The metrics in the first cells of a page's tables."""
    cells = re.findall(r"^\| (`bloomery_[^|]*) \|", page, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell) if name.startswith(prefix)}


def test_the_operators_metrics_are_listed() -> None:
    metrics = OperatorMetrics()
    metrics.count_objects(lambda: ())
    text = metrics.exposition().decode()

    own = {name for name in exposed(text) if not name.startswith("process_")}
    assert own == listed(OPERATIONS, "bloomery_") - trained()
    assert "\nprocess_resident_memory_bytes " in text


def test_a_services_metrics_are_listed_with_their_labels() -> None:
    families = {family.name: family for family in served_metrics().registry.collect()}

    names = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert names == listed(SERVING, "")
    (labels,) = re.findall(r"^\| `bloomery_model_info` \| ([^|]*) \|", SERVING, re.MULTILINE)
    assert re.findall(r"`(\w+)`", labels) == list(families["bloomery_model_info"].samples[0].labels)


def test_a_services_limits_are_those_that_it_has() -> None:
    limits = Settings(model_uri="file:///model")
    section = " ".join(SERVING.partition("## Calling a service")[2].split())

    assert f"up to {limits.max_image_bytes // 2**20} MiB and {limits.max_image_pixels // 10**6} million" in section
    queue = f"{limits.queue_size} requests, or {limits.queue_bytes // 2**20} MiB of them"
    assert queue in section
    assert f"up to {queue}, wait in a pod" in OPERATIONS
    assert (limits.max_images, limits.body_seconds) == (10, 60)
    assert "a request up to ten images. A request must arrive and be answered within 60 seconds." in section


def test_a_pods_bounds_are_those_of_its_settings() -> None:
    limits = Settings(model_uri="file:///model")
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", SERVING, re.MULTILINE))

    assert table["open connections"] == str(limits.max_connections)
    assert table["requests whose bodies are arriving"] == str(limits.receiving_size)
    assert table["requests that wait or are active"] == str(limits.queue_size)
    assert table["bytes of all bodies"].startswith(f"{limits.queue_bytes // 2**20} MiB")


def test_a_trainings_figures_are_listed() -> None:
    assert trained() == listed(OPERATIONS, "bloomery_train") | listed(OPERATIONS, "bloomery_prepare")


def exposed(text: str) -> set[str]:
    """The metrics of an exposition, a counter by the name that it has there."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    return {name for name in kinds if not name.endswith("_created")}


def trained() -> set[str]:
    """The gauges that the figures of preparations and trainings become."""
    names = {
        f"bloomery_{kind}_{re.sub(r'(?=[A-Z])', '_', figure).lower()}"
        for kind in ("prepare", "train")
        for figure in progress_figures(kind)
        if figure not in WORDS
    }
    return names | {BETTER_NAMES[name] for name in names & BETTER_NAMES.keys()}


def test_the_operators_rights_are_those_of_the_chart() -> None:
    rules = re.findall(r"resources: \[([^]]+)\].*?verbs: \[([^]]+)\]", RBAC, re.DOTALL)
    granted = [(name, set(verbs.split(", "))) for names, verbs in rules for name in names.split(", ")]
    rights = {resource: set().union(*(verbs for name, verbs in granted if name == resource)) for resource, _ in granted}
    rows = re.findall(r"^\| (`[a-z/`, ]+) \| ((?:[a-z]+, )*[a-z]+) \|", SECURITY, re.MULTILINE)

    assert len(rules) == RBAC.count("verbs:")
    assert {name: set(verbs.split(", ")) for names, verbs in rows for name in re.findall(r"`([^`]+)`", names)} == rights
