"""The walk-through examples/food-resnet50: its page's commands as they stand, and what its user would look at."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import FilePayload, expect

from testing.cluster_store import list_files, read_file, remove_files
from testing.dev_cluster import Kubectl, eventually
from tests.component.serving.browser import SCREENSHOTS, Visit, chromium
from tests.e2e.shell import Shell
from tests.e2e.walkthrough import MODEL_FILES, MakeNamespace, complete, labels, nothing_is_left, open_walkthrough
from tools.docs_blocks import Block, run_by

pytestmark = pytest.mark.extended

OUTPUT, LOGS = "s3://bloomery/output/food-resnet50", "s3://bloomery/logs/food-resnet50"
DISHES = ["美食/凉皮", "美食/肉夹馍", "美食/羊肉泡馍", "美食/油泼面"]


@pytest.mark.feature("D6", "D8", "D10")
@pytest.mark.feature("T2", "T5", "T9", "T12")
@pytest.mark.feature("S4", "S5", "S6")
def test_food_of_its_first_version_is_trained_and_served(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    """Two pods train; the service has a page and runs for an hour."""
    kubectl = make_namespace("walk-food")
    for folder in (OUTPUT, LOGS):
        remove_files(folder)
    with open_walkthrough("food-resnet50", kubectl, tmp_path, run_by(__file__)) as (shell, commands):
        images, later, gpu, train, log, serve, ask, stop, start, away = commands
        shell.run(images)
        assert shell.run(later).splitlines()[-2:] == ["version 2: 240 images", "version 1: 160 images"]
        assert_the_cluster_would_take_gpus(shell.run(gpu), tmp_path / "gpu.yaml")
        shell.run(train)
        assert_two_pods_trained_the_first_version(kubectl)
        shell.run(log)
        assert_the_log_is_that_of_twenty_epochs(tmp_path / "train.log")
        assert_it_stops_in_an_hour(kubectl, shell.run(serve).splitlines()[-1])
        answers = shell.run(ask)
        assert labels(answers) == DISHES
        assert_the_page_shows_the_same(kubectl, tmp_path / "unseen", answers)
        key = kubectl.secret("food-api-key")
        shell.run(stop)
        assert_no_server_is_left(kubectl)
        shell.run(start)
        assert (kubectl.secret("food-api-key"), labels(shell.run(ask))) == (key, DISHES)
        assert_it_stops_by_itself_and_says_how_to_start_it(kubectl, shell)
        assert "Nothing of Bloomery runs or takes room in this namespace." in shell.run(away)
    assert nothing_is_left(kubectl)


def assert_the_cluster_would_take_gpus(output: str, rendered: Path) -> None:
    assert "trainingjob.bloomery.dev/food-resnet50 created (server dry run)" in output
    dataset, job = yaml.safe_load_all(rendered.read_text(encoding="utf-8"))
    assert dataset["metadata"]["name"] == "food"
    assert job["spec"]["nodes"] == 2
    assert job["spec"]["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert "imageSize" not in job["spec"]["hyperparameters"]


def assert_two_pods_trained_the_first_version(kubectl: Kubectl) -> None:
    job = kubectl.get("tj", "food-resnet50")
    first = next(v for v in kubectl.get("dset", "food")["status"]["versions"] if v["ordinal"] == 1)
    assert complete(job)["reason"] == "Trained"
    assert [(d["name"], d["version"]) for d in job["status"]["datasets"]] == [("food", first["version"])]
    pods = kubectl.get("pods", "", "--selector=bloomery.dev/trainingjob=food-resnet50")
    indexes = {pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
    assert (indexes, {pod["status"]["phase"] for pod in pods}) == ({"0", "1"}, {"Succeeded"})
    assert job["status"]["metrics"]["top1"] >= 0.9


def assert_the_log_is_that_of_twenty_epochs(path: Path) -> None:
    log = path.read_bytes()
    assert log == read_file(OUTPUT, "train.log")
    assert list_files(OUTPUT) >= MODEL_FILES
    # 120 of version 1's 160 images, in batches over both pods.
    assert "resnet50 from scratch: 120 images of 4 classes, 140 steps of 16 images on 2 × cpu" in log.decode()
    assert re.findall(r"epoch (\d+) of 20: ", log.decode()) == [str(epoch) for epoch in range(1, 21)]


def assert_it_stops_in_an_hour(kubectl: Kubectl, stops_at: str) -> None:
    status = kubectl.get("isvc", "food")["status"]
    assert stops_at == status["stopsAt"]
    assert _time(stops_at) - _time(status["startedAt"]) == timedelta(hours=1)
    (variant,) = status["variants"]
    assert variant["dataset"] == "food"
    assert variant["datasetVersion"] == kubectl.get("tj", "food-resnet50")["status"]["datasets"][0]["version"]


def assert_the_page_shows_the_same(kubectl: Kubectl, unseen: Path, answers: str) -> None:
    """The upload page in a real browser, at the gateway's address, beside the answers that a program got."""
    service, key = kubectl.get("isvc", "food")["status"]["url"], kubectl.secret("food-api-key")["default"]
    pictures = [
        FilePayload(name=f"{Path(dish).name}.jpg", mimeType="image/jpeg", buffer=(unseen / dish / "1.jpg").read_bytes())
        for dish in DISHES
    ]
    with chromium() as browser:
        visit = Visit(browser.new_page(viewport={"width": 1280, "height": 900}), service)
        visit.open("/upload")
        page = visit.page
        page.get_by_label("Key", exact=True).fill(key)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose images").click()
        chooser.value.set_files(pictures)
        expect(page.get_by_role("status")).to_have_text("4 images classified")
        expect(page.get_by_role("heading", level=1)).to_have_text("陕西美食识别")
        page.locator(".fill").first.evaluate("bar => Promise.all(bar.getAnimations().map((a) => a.finished))")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "walk-food.png", full_page=True)
        assert page.locator(".label").all_inner_texts() == DISHES
        shown = [card.locator(".scores li").first.inner_text().split("\n") for card in page.locator(".card").all()]
    scores = [json.loads(line)["scores"] for line in answers.splitlines()[1:]]
    assert [name for name, _ in shown] == DISHES
    percentages = [float(re.sub(r"[^\d.]", "", percent)) for _, percent in shown]
    assert percentages == pytest.approx([100 * of[dish] for of, dish in zip(scores, DISHES, strict=True)], abs=0.2)
    assert (visit.strangers(), visit.complaints) == ([], [])


def assert_no_server_is_left(kubectl: Kubectl) -> None:
    """Wait until the last pod has drained and the URL answers 503."""
    of_food = "--selector=bloomery.dev/inferenceservice=food"
    eventually("no pod is left", lambda: not kubectl.get("pods", "", of_food), seconds=90)
    url = kubectl.get("isvc", "food")["status"]["url"]
    eventually("503", lambda: httpx.post(f"{url}/predict", timeout=60).status_code == 503, seconds=60)


def assert_it_stops_by_itself_and_says_how_to_start_it(kubectl: Kubectl, shell: Shell) -> None:
    """The same in half a minute instead of an hour; what it says then is a command that works."""
    kubectl("patch", "isvc", "food", "--type=merge", '--patch={"spec": {"autoStop": "30s"}}')
    kubectl("wait", "isvc/food", "--for=jsonpath={.status.phase}=Stopped", "--timeout=60s")
    status = kubectl.get("isvc", "food")["status"]
    ready = _ready(status)
    assert _time(ready["lastTransitionTime"]) >= _time(status["stopsAt"])
    reason, _, command = ready["message"].partition("; to start it again: ")
    assert reason == "Stopped by itself 30s after its start"
    shell.run(Block("status.conditions", 1, "sh", command, ""))
    on_air = ("Deploying", "Running")
    eventually("it is started", lambda: kubectl.get("isvc", "food")["status"]["phase"] in on_air, seconds=20)


def _ready(status: dict[str, Any]) -> dict[str, Any]:
    condition: dict[str, Any] = next(c for c in status["conditions"] if c["type"] == "Ready")
    return condition


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
