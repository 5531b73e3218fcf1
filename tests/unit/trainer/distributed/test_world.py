"""Values that processes of one training exchange, and the meaning of errors between them."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import TCPStore

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.distributed import processes
from bloomery_trainer.distributed.liveness import Liveness
from bloomery_trainer.distributed.world import World, _await_all, explain, joined, peers_watched
from bloomery_trainer.engine import micro_batch
from bloomery_trainer.entrypoint import explain_memory
from bloomery_trainer.errors import BadConfig, PeerLost, Unavailable

pytestmark = pytest.mark.feature("T12")

CONFIG = TrainConfig.model_validate({
    "kind": "train", "name": "a", "uid": "1", "datasets": [{"name": "a", "version": "1", "uri": "file:///a"}],
    "preset": "resnet18", "mlflow": {"experiment": "a", "registeredModel": "a"}, "output": {"uri": "file:///b"},
})  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def stores() -> tuple[TCPStore, TCPStore]:
    """A rendezvous store, and another client of it."""
    port = free_port()
    return TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False), TCPStore("127.0.0.1", port, 2, False)


@pytest.fixture
def alive(stores: tuple[TCPStore, TCPStore]) -> Iterator[tuple[Liveness, Liveness]]:
    """Two processes' view of each other; the second one's heart does not beat yet."""
    pair = tuple(Liveness(store, rank=rank, size=2, heartbeat=0.1, silence=2) for rank, store in enumerate(stores))
    pair[0].start()
    yield pair[0], pair[1]
    pair[0].stop()


def test_a_barrier_outlasts_work_that_takes_longer_than_any_silence(alive: tuple[Liveness, Liveness]) -> None:
    first, second = alive
    second.start()
    arrive = threading.Timer(5, second.barrier)
    arrive.start()
    began = time.monotonic()
    first.barrier()

    assert time.monotonic() - began > 4
    arrive.join()
    second.stop()


def test_a_process_that_is_silent_at_a_barrier_is_lost(alive: tuple[Liveness, Liveness]) -> None:
    with pytest.raises(PeerLost, match="process 2 of 2 has not been heard of for 2 s"):
        alive[0].barrier()


def test_the_failure_of_a_process_ends_the_barrier_in_its_words(alive: tuple[Liveness, Liveness]) -> None:
    alive[1].report_failure(BadConfig("ScratchTooSmall", "the images need 7 GiB"))

    with pytest.raises(PeerLost, match="process 2 of 2 ended: BadConfig: the images need 7 GiB"):
        alive[0].barrier()


def test_processes_that_do_not_come_are_counted(stores: tuple[TCPStore, TCPStore]) -> None:
    stores[0].set("met/0", "1")

    with pytest.raises(PeerLost, match="1 of the 2 processes of this training did not come to leader:29500"):
        _await_all(stores[0], ["met/0", "met/1"], "leader:29500", limit=timedelta(seconds=0.2))


def test_a_port_in_use_is_no_lost_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = {"LOCAL_WORLD_SIZE": "2", "BLOOMERY_RENDEZVOUS": f"127.0.0.1:{server.getsockname()[1]}"}
        with pytest.raises(Unavailable, match="in use on this machine") as caught, joined(CONFIG, environment):
            pass

    assert (caught.value.reason, caught.value.exit_code) == ("PortInUse", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "NCCL error in: ProcessGroupNCCL.cpp:77, invalid usage (run with NCCL_DEBUG=WARN for details)\n"
            "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
            "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
            "CommunicationFailed",
        ),
        ("NCCL error in: x.cpp:1, unhandled cuda error, NCCL version 2.28", "CommunicationFailed"),
        ("NCCL error in: x.cpp:1, remote process exited or there was a network error", "PeerLost"),
        ("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:64678", "PeerLost"),
        ("The client socket has timed out after 2000ms while trying to connect to (a, 29500).", "PeerLost"),
    ],
)
def test_faults_of_the_rendezvous_differ_from_lost_peers(text: str, reason: str) -> None:
    explained = explain(dist.DistBackendError(text))

    assert explained is not None
    assert explained.reason == reason
    if "Duplicate" in text:
        assert "rank 0 and rank 1 both on CUDA device" in str(explained)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), peers_watched():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def norm_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(("batch", "expected"), [(32, True), (63, True), (64, False), (2, True)])
def test_batch_norm_is_synchronised_below_sixteen_images_a_process(batch: int, expected: bool) -> None:
    world, cuda, cpu = World(size=4), torch.device("cuda", 0), torch.device("cpu")

    assert world.synchronises_batch_norm(norm_model(), cuda, batch=batch) is expected
    assert not world.synchronises_batch_norm(norm_model(), cpu, batch=batch)
    assert world.has_small_batches(norm_model(), batch=batch) is expected
    assert not World().has_small_batches(norm_model(), batch=batch)


def test_small_batches_on_processors_get_a_note() -> None:
    note = World(size=4).batch_norm_note(norm_model(), torch.device("cpu"), batch=32)

    assert note is not None
    assert "8 images of a step" in note
    assert "batchSize of 64 or more" in note
    assert World(size=4).batch_norm_note(norm_model(), torch.device("cuda", 0), batch=32) is None
    assert World(size=2).batch_norm_note(norm_model(), torch.device("cpu"), batch=32) is None


def test_frozen_batch_norm_is_not_synchronised() -> None:
    model = norm_model()
    model[1].requires_grad_(False)

    assert not World(size=4).has_small_batches(model, batch=8)
    assert not World(size=4).has_small_batches(nn.Sequential(nn.LayerNorm(4)), batch=8)


def in_processes(count: int, work: Callable[[World], Any]) -> list[Any]:
    """Return the work's result on each of some connected processes; an error as its text."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    rendezvous = f"127.0.0.1:{free_port()}"

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        environment = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "BLOOMERY_RENDEZVOUS": rendezvous}
        try:
            with joined(CONFIG, environment) as world:
                answers.put((rank, work(world)))
        except Exception as error:
            answers.put((rank, f"{type(error).__name__}: {error}"))

    started = [context.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    results = dict(answers.get(timeout=300) for _ in started)
    for process in started:
        process.join(timeout=300)
    return [results[rank] for rank in range(count)]


def test_running_statistics_are_averaged_and_counters_left_alone() -> None:
    def work(world: World) -> Any:
        norm = nn.BatchNorm2d(2)
        norm.running_mean.fill_(world.rank)
        norm.running_var.fill_(1 + 2 * world.rank)
        norm.num_batches_tracked.fill_(5)
        world.average_buffers(nn.Sequential(norm))
        return norm.running_mean.tolist(), norm.running_var.tolist(), int(norm.num_batches_tracked)

    assert in_processes(2, work) == [([0.5, 0.5], [2.0, 2.0], 5)] * 2


def test_the_leader_loads_for_all_and_gathers_from_all() -> None:
    def work(world: World) -> Any:
        loaded = world.broadcast(lambda: {"weight": torch.full((2,), float(world.rank + 1)), "by": world.rank})
        return loaded["weight"].tolist(), loaded["by"], world.gather_to_leader(world.rank * 10)

    assert in_processes(2, work) == [([1.0, 1.0], 0, [0, 10]), ([1.0, 1.0], 0, None)]


def test_processes_at_different_steps_do_not_train_together() -> None:
    answers = in_processes(2, lambda world: world.require_same("where to go on", f"step {7 * world.rank}"))

    assert all("disagree on where to go on (process 1: step 0, process 2: step 7)" in answer for answer in answers)


def test_trying_a_part_asks_no_other_process_for_statistics() -> None:
    # In training mode on a processor, SyncBatchNorm would raise: it exchanges statistics between GPUs only.
    def work(world: World) -> Any:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(norm_model()).train()
        part = torch.randn(4, 3, 2, 2), torch.zeros(4)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        held = micro_batch.fits(model, lambda images, _: model(images).sum(), part, scaler)
        return held, [module.training for module in model.modules()]

    assert in_processes(2, work) == [(True, [True] * 3)] * 2


@pytest.mark.parametrize("requested", ["0", "-1", "two"])
def test_a_number_of_processes_that_is_none_is_refused(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("BLOOMERY_PROCESSES", requested)

    with pytest.raises(BadConfig, match="BLOOMERY_PROCESSES must be the number"):
        processes.count()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU has too little memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the GPU has too little memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU has too little memory"),
        (MemoryError(), "the pod has too little memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "the pod has too little memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "the pod has too little memory"),
    ],
)
def test_a_shortage_of_memory_is_reported_in_words(error: Exception, words: str) -> None:
    explained = explain_memory(error)

    assert explained is not None
    assert explained.startswith(words)
    assert "hyperparameters.batchSize" in explained


def test_an_error_in_our_code_is_no_shortage_of_memory() -> None:
    assert explain_memory(KeyError("classes")) is None
