"""Published weights as the default start: their sources in order, and a start without any."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor

from bloomery_trainer.config import PublishedWeights, TrainConfig
from bloomery_trainer.errors import BadConfig, Unavailable
from bloomery_trainer.models import initial, published
from bloomery_trainer.models.presets import ALIASES, PRESETS
from bloomery_trainer.models.published import LocalWeights, NotFound, PublishedFile, WeightsFinder
from bloomery_trainer.storage import Folder, S3Access, open_folder

Train = Callable[..., Any]
State = dict[str, Tensor]

NETWORKS = [name for name in PRESETS if name not in ALIASES]
NO_ACCESS = S3Access(endpoint=None, region="us-east-1", key_id=None, secret=None, session_token=None)


def local(uri: str) -> Folder:
    return open_folder(uri, NO_ACCESS)


def push(store: Path, preset: str, file: Path, name: str = "weights.pth") -> Path:
    """Put a file where `kubectl bloomery weights push` puts it."""
    folder = store / preset
    folder.mkdir(parents=True)
    content = file.read_bytes()
    (folder / name).write_bytes(content)
    about = {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "pushed": "2026-01-01T00:00:00Z"}
    (folder / "weights.json").write_text(json.dumps(about), encoding="utf-8")
    return folder / name


def as_published(preset: str) -> State:
    """Weights with the names and shapes of torchvision's oldest files: 1,000 classes, no counters.

    Each tensor has a value of its own; float16, as only names, shapes and values matter.
    """
    known = PRESETS[preset]
    arguments = {} if known.auxiliary is None else {"aux_logits": True, "init_weights": False}
    with torch.device("meta"):
        network = torchvision.models.get_model(known.architecture, weights=None, num_classes=1000, **arguments)
    shapes = {name: value.shape for name, value in network.state_dict().items() if not name.endswith("_tracked")}
    return {
        name: torch.full(shape, (1 + number) / 1024, dtype=torch.float16)
        for number, (name, shape) in enumerate(shapes.items())
    }


def config_of(preset: str, store: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({
        "kind": "train",
        "name": "a",
        "uid": "1",
        "datasets": [{"name": "a", "version": "1", "uri": "s3://a/b"}],
        "preset": preset,
        "publishedWeights": {"uri": f"file://{store}", "download": False},
        "mlflow": {"experiment": "a", "registeredModel": "a"},
        "output": {"uri": f"file://{store}/output"},
        **changes,
    })  # fmt: skip


@pytest.fixture(autouse=True)
def empty_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file that stands for published weights where only the way to it matters."""
    path = tmp_path / "small.pth"
    torch.save({"conv1.weight": torch.ones(3)}, path)
    return path


def named_after(content: bytes, *, url: str = "https://example.invalid/models") -> PublishedFile:
    """A published file whose name has the digits of this content."""
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    return replace(published.published_file("resnet18", "DEFAULT"), url=f"{url}/{name}")


@pytest.mark.feature("T19")
@pytest.mark.parametrize("preset", NETWORKS)
def test_weights_shaped_as_the_published_ones_are_taken_whole(preset: str, tmp_path: Path, scratch: Path) -> None:
    state = as_published(preset)
    torch.save(state, tmp_path / "made.pth")
    push(tmp_path / "store", preset, tmp_path / "made.pth")
    start = initial.load(config_of(preset, tmp_path / "store"), local, scratch)
    known = PRESETS[preset]
    with torch.device("meta"):
        model = known.build(3, image_size=known.image_size)
    model = model.to_empty(device="cpu")
    head = known.head(image_size=known.image_size)
    notes = initial.load_pretrained(model, start, classes=("a", "b", "c"), head=head)

    after = model.state_dict()
    body = [name for name in after if name not in head and not name.endswith("num_batches_tracked")]
    assert all(bool((after[name] == state[name].float().flatten()[0]).all()) for name in body)
    origin = f"the pushed weights weights.pth of {preset}"
    assert notes == [f"Training starts from {origin}; its classes are not known, so the head is new."]
    assert not list(scratch.iterdir())


@pytest.mark.feature("T19")
def test_auxiliary_heads_of_the_file_are_ignored_at_small_image_sizes(tmp_path: Path, scratch: Path) -> None:
    torch.save(as_published("inception-v3"), tmp_path / "made.pth")
    push(tmp_path / "store", "inception-v3", tmp_path / "made.pth")
    start = initial.load(config_of("inception-v3", tmp_path / "store"), local, scratch)
    model = PRESETS["inception-v3"].build(2, image_size=96)
    notes = initial.load_pretrained(model, start, classes=("a", "b"), head=PRESETS["inception-v3"].head(image_size=96))

    assert len(notes) == 1


@pytest.mark.feature("T19")
@pytest.mark.parametrize(("preset", "pushed_as"), [("general", "resnet50"), ("resnet50", "general")])
def test_pushed_weights_are_found_under_the_alias_too(preset: str, pushed_as: str, small: Path, scratch: Path) -> None:
    push(small.parent / "store", pushed_as, small)
    weights = finder(published.published_file(preset, "DEFAULT"), small.parent / "store", scratch).find()

    assert isinstance(weights, LocalWeights)
    assert (weights.kind, weights.origin) == ("Pushed", f"the pushed weights weights.pth of {pushed_as}")


def finder(
    file: PublishedFile, store: Path | None, scratch: Path, *, any_pushed: bool = True, download: bool = False
) -> WeightsFinder:
    settings = PublishedWeights(uri=f"file://{store}" if store else None, download=download)
    return WeightsFinder(
        file=file, any_pushed=any_pushed, settings=settings, open_folder=local, scratch=scratch, answer_seconds=2
    )


@pytest.mark.feature("T19")
def test_pushed_weights_win_over_torchvisions_file_of_the_store(small: Path, scratch: Path) -> None:
    store = small.parent / "store"
    push(store, "resnet18", small)
    file = named_after(b"other")
    (store / file.name).write_bytes(b"other")

    weights = finder(file, store, scratch).find()
    by_name = finder(file, store, scratch, any_pushed=False).find()

    assert isinstance(weights, LocalWeights) and isinstance(by_name, LocalWeights)
    assert (weights.kind, weights.path.read_bytes()) == ("Pushed", small.read_bytes())
    assert (by_name.kind, by_name.path.read_bytes()) == ("Published", b"other")


@pytest.mark.feature("T19")
def test_a_pushed_file_of_torchvisions_name_and_digest_is_that_file(small: Path, scratch: Path) -> None:
    file = named_after(small.read_bytes())
    push(small.parent / "store", "resnet18", small, file.name)
    weights = finder(file, small.parent / "store", scratch, any_pushed=False).find()

    assert isinstance(weights, LocalWeights)
    assert (weights.kind, len(weights.classes)) == ("Pushed", 1000)


@pytest.mark.feature("T19")
def test_a_changed_pushed_file_is_refused_with_both_digests(small: Path, scratch: Path) -> None:
    path = push(small.parent / "store", "resnet18", small)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"changed")
    with pytest.raises(BadConfig) as caught:
        finder(published.published_file("resnet18", "DEFAULT"), small.parent / "store", scratch).find()

    assert caught.value.reason == "InvalidCheckpoint"
    message = str(caught.value)
    assert f"{path} is damaged" in message
    assert digest in message and hashlib.sha256(b"changed").hexdigest() in message


@pytest.mark.parametrize("content", ["{", "[]", '{"file": "a"}', '{"file": "../a", "sha256": "0"}', '{"file": 1}'])
def test_a_pushed_description_that_is_wrong_is_refused(content: str, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "store/resnet18").mkdir(parents=True)
    (tmp_path / "store/resnet18/weights.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadConfig, match=r"weights\.json does not describe weights"):
        finder(published.published_file("resnet18", "DEFAULT"), tmp_path / "store", scratch).find()


@pytest.mark.feature("T19")
@pytest.mark.parametrize("place", ["store", "torch/hub/checkpoints"])
def test_torchvision_file_is_checked_by_the_digits_in_its_name(
    place: str, tmp_path: Path, scratch: Path, small: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    good = named_after(small.read_bytes())
    (folder / good.name).write_bytes(small.read_bytes())
    weights = finder(good, tmp_path / "store", scratch).find()
    assert isinstance(weights, LocalWeights)
    assert (weights.kind, weights.path.read_bytes()) == ("Published", small.read_bytes())

    (folder / good.name).write_bytes(b"damaged on the way")
    with pytest.raises(BadConfig, match="is damaged: its sha256 is") as caught:
        finder(good, tmp_path / "store", scratch).find()
    assert caught.value.reason == "InvalidCheckpoint"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serve one answer at any path; give the server's address."""
    servers = []

    def start(body: bytes, *, status: int = 200, length: int | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.feature("T19")
def test_a_download_is_put_into_the_store_for_the_next_pod(
    serve: Callable[..., str], small: Path, scratch: Path
) -> None:
    store, content = small.parent / "store", small.read_bytes()
    file = named_after(content, url=serve(content))
    weights = finder(file, store, scratch, download=True).find()

    assert isinstance(weights, LocalWeights)
    assert weights.path.read_bytes() == content
    assert (store / file.name).read_bytes() == content
    again = finder(replace(file, url=f"http://127.0.0.1:1/{file.name}"), store, scratch, download=True).find()
    assert isinstance(again, LocalWeights) and again.where.startswith("file://")


@pytest.mark.feature("T19")
def test_a_store_that_takes_nothing_costs_only_a_warning(
    serve: Callable[..., str], small: Path, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = small.read_bytes()
    file = named_after(content, url=serve(content))
    (small.parent / "store").write_text("a file where a folder should be", encoding="utf-8")
    weights = finder(file, small.parent / "store", scratch, download=True).find()

    assert isinstance(weights, LocalWeights)
    assert "could not be put into" in caplog.text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"body": b"<html>sign in</html>"}, "what it answers is another file"),
        ({"body": b"", "status": 503}, "503"),
        ({"body": b"", "status": 404}, "404"),
        ({"body": b"half", "length": 1000}, "cannot be had"),
    ],
)
def test_a_wrong_answer_counts_as_none(
    serve: Callable[..., str], answer: dict[str, Any], words: str, tmp_path: Path, scratch: Path
) -> None:
    file = named_after(b"right", url=serve(**answer))
    missing = finder(file, tmp_path / "store", scratch, download=True).find()

    assert isinstance(missing, NotFound) and missing.unreachable
    assert words in missing.sources[-1]
    assert not list(scratch.iterdir())
    assert not (tmp_path / "store" / file.name).exists()


@pytest.mark.feature("T19")
def test_silent_server_costs_no_more_than_the_limit(tmp_path: Path, scratch: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = named_after(b"right", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        missing = finder(file, tmp_path / "store", scratch, download=True).find()

    assert isinstance(missing, NotFound) and missing.unreachable
    assert time.monotonic() - began < 2 * 2 + 4
    assert published.ANSWER_SECONDS < 10


@pytest.mark.feature("T19")
def test_endless_name_lookup_ends_at_the_limit(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        release.wait(60)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    missing = finder(named_after(b"right"), tmp_path / "store", scratch, download=True).find()
    release.set()

    assert isinstance(missing, NotFound)
    assert "no answer in 2 s" in missing.sources[-1]
    assert time.monotonic() - began < 10


@pytest.mark.feature("T19")
def test_a_job_without_initial_model_starts_from_pushed_weights(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "made.pth")
    push(tmp_path / "store", "resnet18", tmp_path / "made.pth")
    ended = train(
        {"learningRate": 1e-9, "maxSteps": 1},
        initialModel=None,
        publishedWeights={"uri": f"file://{tmp_path}/store"},
        output={"uri": f"file://{tmp_path}/output"},
    )

    assert ended.code == 0, ended.message
    after = torch.load(tmp_path / "output/model/state.pt", weights_only=True)
    assert torch.allclose(after["conv1.weight"], state["conv1.weight"], atol=1e-6)
    origin = "the pushed weights weights.pth of resnet18"
    assert ended.message["initialModel"] == {"kind": "Pushed", "origin": origin, "warning": ""}
    result = json.loads((tmp_path / "output/result.json").read_text(encoding="utf-8"))
    assert result["initialModel"] == ended.message["initialModel"]


@pytest.mark.feature("T19")
def test_a_job_without_any_source_starts_from_scratch_with_a_warning(train: Train, tmp_path: Path) -> None:
    ended = train(
        initialModel=None,
        publishedWeights={"uri": f"file://{tmp_path}/store", "download": False},
        output={"uri": f"file://{tmp_path}/output"},
    )

    assert ended.code == 0, ended.message
    start, note = ended.message["initialModel"], ended.message["notes"][0]
    assert (start["kind"], start["origin"], start["warning"]) == ("Scratch", "scratch", note)
    assert "the published weights (IMAGENET1K_V1 of resnet18, resnet18-f37072fd.pth) cannot be had" in note
    assert f"file://{tmp_path}/store" in note
    assert "`kubectl bloomery weights push FILE --preset resnet18`" in note
    assert "initialModel: {weights: None}" in note


@pytest.mark.feature("T19")
def test_from_scratch_on_purpose_is_no_warning(train: Train, tmp_path: Path) -> None:
    ended = train(initialModel={"weights": "None"}, output={"uri": f"file://{tmp_path}/output"})

    assert ended.message["initialModel"] == {"kind": "Scratch", "origin": "scratch", "warning": ""}
    assert not [note for note in ended.message["notes"] if "weights" in note]


@pytest.mark.feature("T19")
@pytest.mark.parametrize("start", [None, {"weights": "DEFAULT"}])
def test_a_head_without_a_body_that_can_be_had_is_refused(train: Train, start: dict[str, str] | None) -> None:
    ended = train({"trainable": "Head"}, initialModel=start, publishedWeights={"download": False})

    assert (ended.code, ended.reason) == (2, "WeightsNotFound")
    assert "kubectl bloomery weights push" in ended.sentence


@pytest.mark.feature("T19")
def test_the_choice_of_the_first_pod_holds_for_the_next(tmp_path: Path, scratch: Path, small: Path) -> None:
    store = tmp_path / "store"
    output = open_folder(f"file://{tmp_path}/output", NO_ACCESS, create=True)
    config = config_of("resnet18", store)
    first = initial.load(config, local, scratch, output=output)
    torch.save(as_published("resnet18"), tmp_path / "made.pth")
    push(store, "resnet18", tmp_path / "made.pth")

    assert initial.load(config, local, scratch, output=output) == first
    assert first.kind == "Scratch" and first.warning
    other_job = config.model_copy(update={"uid": "2"})
    assert initial.load(other_job, local, scratch, output=output).kind == "Pushed"
    (store / "resnet18/weights.json").unlink()
    with pytest.raises(BadConfig, match="cannot be had") as caught:
        initial.load(other_job, local, scratch, output=output)
    assert caught.value.reason == "WeightsNotFound"


@pytest.mark.parametrize(("unreachable", "kind"), [(True, Unavailable), (False, BadConfig)])
def test_missing_named_weights_are_retried_only_if_that_helps(unreachable: bool, kind: type[Exception]) -> None:
    file = published.published_file("general", "IMAGENET1K_V1")
    error = published.unreachable_error(file, NotFound(sources=("nowhere",), unreachable=unreachable))

    assert type(error) is kind
    assert "push resnet50-0676ba61.pth --preset general" in str(error)
