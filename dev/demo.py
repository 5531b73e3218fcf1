"""The demo: from images to predictions through the gateway, as a user would do it, with its progress shown."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from dev.paths import BIN, KUBECONFIG, ROOT, STATE, target
from dev.stages import Stage, StageError, record, run, wait_until

EXAMPLE = ROOT / "examples" / "digits"
RELEASE_NAMESPACE = "bloomery-system"
WORK = STATE / "demo"
IMAGES = WORK / "digits"
PYTHON = WORK / "venv" / "bin" / "python"
SERVICE = "digits"
KINDS = "datasets,trainingjobs,inferenceservices"
LIMIT_SECONDS = 1200.0
MUST_BE_RIGHT = 0.9
"""Share of the unseen images that the demo must name right to call itself a success."""


def install_chart(log: TextIO) -> None:
    """Install Bloomery by its chart; for a cluster of the user's own, with the values file in ``VALUES``."""
    own = ["--values", str(ROOT / "dev" / "values.yaml")] if target().is_own else _user_values()
    command: list[str | Path] = [tool("helm"), "upgrade", "--install", "bloomery", ROOT / "charts" / "bloomery"]
    where = [f"--namespace={RELEASE_NAMESPACE}", "--create-namespace", "--wait", "--timeout=10m"]
    try:
        run([*command, *where, *own], log, env=target().environment)
    except StageError:
        _show_what_waits(log)
        raise
    if target().is_own:
        # The tag of a local image never changes: a Deployment would keep running what it was made of before.
        for name in ("operator", "mlflow", "storage"):
            _restart_if_image_is_newer(f"deployment/bloomery-{name}", log)


def _show_what_waits(log: TextIO) -> None:
    """Write what helm leaves out when it waited in vain: the pods, what they met, and what the nodes lack."""
    kubectl, where = tool("kubectl"), f"--namespace={RELEASE_NAMESPACE}"
    conditions = r"{range .items[*]}{.metadata.name}{range .status.conditions[*]} {.type}={.status}{end}{'\n'}{end}"
    for words in (
        ("get", "events", where, "--field-selector=type=Warning", "--sort-by=.lastTimestamp"),
        ("get", "nodes", f"--output=jsonpath={conditions}"),
        ("get", "pods", where, "--output=wide"),
    ):
        with suppress(StageError):
            run([kubectl, *words], log, env=target().environment)


def make_images(log: TextIO) -> None:
    """Write the digits' images, with the example's own script in a virtual environment of its own."""
    if not PYTHON.exists():
        run([sys.executable, "-m", "venv", WORK / "venv"], log)
        requirements = EXAMPLE / "requirements.txt"
        run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--requirement", requirements], log)
    if not (IMAGES / "unseen").exists():
        run([PYTHON, EXAMPLE / "make_images.py", IMAGES], log)


def upload_images(log: TextIO) -> None:
    """Put the images into the store that the namespace's Secret names."""
    keys = _secret("bloomery-storage")
    with reachable(keys["AWS_ENDPOINT_URL"], log) as endpoint:
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": endpoint}
        command: list[str | Path] = [PYTHON, EXAMPLE / "upload.py", IMAGES / "images", "s3://bloomery/raw/digits"]
        run(command, log, env=environment)


def apply_example(log: TextIO) -> None:
    """Apply the Dataset, the TrainingJobs and the InferenceService."""
    run([tool("kubectl"), "apply", "--filename", EXAMPLE / "digits.yaml"], log, env=target().environment)


def stages() -> list[Stage]:
    """Return the stages that come before the workflow itself."""
    return [
        Stage("demo-images", "digits", make_images),
        Stage("chart", "Bloomery's chart", install_chart),
        Stage("upload", "images into S3", upload_images, ("chart", "demo-images")),
        Stage("apply", "apply examples/digits", apply_example, ("upload",)),
    ]


def watch_until_ready() -> None:
    """Print each object's progress as it changes, until the service is Ready.

    Raises:
        SystemExit: something failed, or it takes longer than the limit.
    """
    start, shown = time.monotonic(), dict[str, str]()
    ended: dict[str, float] = {}
    while time.monotonic() - start < LIMIT_SECONDS:
        objects = _get(KINDS)
        for item in objects:
            name, line = _name(item), _line(item)
            if shown.get(name) != line:
                shown[name] = line
                minutes, seconds = divmod(int(time.monotonic() - start), 60)
                print(f"[{minutes:2d}:{seconds:02d}]   {name:<36} {line}", flush=True)
            if _is_done(item):
                ended.setdefault(name, time.monotonic() - start)
            _stop_if_failed(item)
        if objects and all(map(_is_done, objects)):
            for name, after in ended.items():
                record(f"demo: {name}", after)
            return
        time.sleep(2)
    raise SystemExit(f"\nThe workflow did not end within {LIMIT_SECONDS:.0f} s: kubectl describe shows where it waits.")


def predict_unseen() -> None:
    """Ask the service for images that no model has seen; print and judge the answers.

    Raises:
        SystemExit: too few answers are right.
    """
    service = next(item for item in _get("inferenceservices") if item["metadata"]["name"] == SERVICE)
    status = service["status"]
    key = _secret(status["apiKeySecret"])["default"]
    url = f"{status['url']}/predict"
    wait_until("The gateway", lambda: _answers(url), seconds=60)
    images = sorted((IMAGES / "unseen").glob("*.png"))
    right, variants = 0, Counter[str]()
    for number, path in enumerate(images):
        answer, variant = _predict(url, key, path)
        truth = path.stem.partition("-")[0]
        right += answer["label"] == truth
        variants[variant] += 1
        if number % 3 == 0 or answer["label"] != truth:
            mark = "right" if answer["label"] == truth else "WRONG"
            score = answer["scores"][answer["label"]]
            print(f"  {path.name:<14} → {answer['label']:<6} {score:.3f}  {variant:<6} {mark}")
    print(f"{right} of {len(images)} unseen images were named right; by variant: {dict(variants)}")
    _print_summary(status, service["metadata"]["namespace"])
    if right < MUST_BE_RIGHT * len(images):
        raise SystemExit("\nThat is too few: read the evaluation in MLflow.")


def _print_summary(status: dict[str, Any], namespace: str) -> None:
    runs = {item["metadata"]["name"]: item["status"].get("mlflow", {}) for item in _get("trainingjobs")}
    prefix = f"export KUBECONFIG={KUBECONFIG} PATH={BIN}:$PATH; " if target().is_own else ""
    secret, image = status["apiKeySecret"], (IMAGES / "unseen" / "seven-1.png").relative_to(ROOT)
    print(f"""
Endpoint    {status["url"]}/predict
Key         {prefix}kubectl get secret -n {namespace} {secret} -o jsonpath='{{.data.default}}' | base64 -d
Ask         curl -H "Authorization: $KEY" -F image=@{image} {status["url"]}/predict
Dashboard   kubectl get dset,tj,inferenceservices.bloomery.dev
MLflow      kubectl port-forward -n {RELEASE_NAMESPACE} svc/bloomery-mlflow 5000, then""")
    for name, job in runs.items():
        print(f"              {name}: {job.get('url') or job.get('runId')}")


def _name(item: dict[str, Any]) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def _line(item: dict[str, Any]) -> str:
    status = item.get("status", {})
    progress = status.get("progress", {})
    facts = [
        progress.get("steps") and f"step {progress['steps']}",
        progress.get("stage"),
        progress.get("total") and f"{progress.get('images', 0)} of {progress['total']} images",
        progress.get("eta") and f"{progress['eta']} to go",
        status.get("metric"),
        status.get("traffic"),
        status.get("images") and f"{status['images']} images, {status['classCount']} classes",
    ]
    return "  ".join([f"{status.get('phase', 'Pending'):<10}", *(fact for fact in facts if fact)])


def _is_done(item: dict[str, Any]) -> bool:
    type_ = "Complete" if item["kind"] == "TrainingJob" else "Ready"
    return any(c["type"] == type_ and c["status"] == "True" for c in _conditions(item))


def _stop_if_failed(item: dict[str, Any]) -> None:
    if item.get("status", {}).get("phase") == "Failed":
        reasons = "; ".join(c.get("message", "") for c in _conditions(item))
        raise SystemExit(f"\n{_name(item)} failed: {reasons}")


def _conditions(item: dict[str, Any]) -> list[dict[str, Any]]:
    conditions: list[dict[str, Any]] = item.get("status", {}).get("conditions", [])
    return conditions


def _predict(url: str, key: str, path: Path) -> tuple[dict[str, Any], str]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Authorization": key, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), response.headers["X-Variant"]


def _answers(url: str) -> bool:
    """Whether the model server answers behind the gateway: it asks for a key."""
    try:
        urllib.request.urlopen(url, data=b"", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def _get(kinds: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(_kubectl("get", kinds, "--output=json"))["items"]
    return sorted(items, key=lambda item: ["Dataset", "TrainingJob", "InferenceService"].index(item["kind"]))


def _secret(name: str) -> dict[str, str]:
    data = json.loads(_kubectl("get", "secret", name, "--output=json"))["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _kubectl(*words: str) -> str:
    done = subprocess.run(
        [tool("kubectl"), *words], env=target().environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"\nkubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def reachable(endpoint: str, log: TextIO) -> Iterator[str]:
    """Make an address inside the cluster reachable from here for a while; one outside it is left as it is."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    service, _, namespace = host.partition(".")
    if ".svc" not in host:
        yield endpoint
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = probe.getsockname()[1]
    forward = [tool("kubectl"), "port-forward", f"--namespace={namespace.partition('.')[0]}", f"service/{service}",
               f"{local}:{port.rstrip('/')}"]  # fmt: skip
    process = subprocess.Popen(forward, stdout=log, stderr=log, env=target().environment)
    try:
        wait_until("The port-forward", lambda: _is_open(local), seconds=30)
        yield f"http://127.0.0.1:{local}"
    finally:
        process.terminate()
        process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tool(name: str) -> str:
    """Return a command-line tool: the one built here, or the user's."""
    return str(BIN / name) if target().is_own else name


def _user_values() -> list[str]:
    """Return helm's arguments for a cluster of the user's own."""
    prefix = [f"--set=images.registry={target().images}", f"--set=images.tag={target().tag}"]
    values = os.environ.get("VALUES")
    if values is None:
        raise StageError("CLUSTER=current needs VALUES: a values file for the chart, with the gateway to use")
    return [*prefix, "--values", values]


def _restart_if_image_is_newer(deployment: str, log: TextIO) -> None:
    """Restart a Deployment whose pods run another image than the store has under the name."""
    name = deployment.partition("bloomery-")[2]
    image = STATE / "images" / {"storage": "versitygw"}.get(name, name)
    built = image.read_text() if image.exists() else ""
    stamp = WORK / f"deployed-{name}"
    if stamp.exists() and stamp.read_text() != built:
        words = [tool("kubectl"), f"--namespace={RELEASE_NAMESPACE}", "rollout"]
        run([*words, "restart", deployment], log, env=target().environment)
        run([*words, "status", deployment, "--timeout=120s"], log, env=target().environment)
    WORK.mkdir(parents=True, exist_ok=True)
    stamp.write_text(built)
