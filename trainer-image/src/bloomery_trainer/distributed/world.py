"""The processes that train one model together, and the values that they exchange.

A process alone is a world too: every exchange is then with itself, and torch.distributed is not started. The processes
of a node are started by ``processes``, not by torchrun; its docstring gives the reasons.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Store, TCPStore
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.distributed import devices
from bloomery_trainer.distributed.liveness import Liveness
from bloomery_trainer.errors import BadConfig, PeerLost, TrainerError, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

SYNC_BATCH_NORM_BELOW = 16
"""Images a process below which batch norm takes its statistics over all processes.

Of 2 to 4 images they are so noisy that accuracy falls (Wu and He 2018, Group Normalization, arXiv 1803.08494).
"""

_MEETING = timedelta(minutes=30)
"""The time for all processes to start: a node may have to be found, an image to be pulled."""

_SILENCE = timedelta(minutes=10)
"""The time that a process waits for another during the work: longer than any step or shard of evaluation."""

_POLL_SECONDS = 0.1
_DONE = "bloomery/done"


@dataclass(frozen=True)
class World:
    """This process among the processes: ``rank`` of ``size``, ``local_rank`` of ``local_size`` on this node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = None
    control: dist.ProcessGroup | None = None
    """A group on the processors, also where gradients travel between GPUs: asking there stalls no GPU."""
    liveness: Liveness | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device, *, batch: int | None = None) -> nn.Module:
        """Return the model with its gradients averaged over all processes.

        Args:
            model: on the device; its batch norms are replaced in place where ``synchronises_batch_norm``.
            device: of this process.
            batch: images of a step over all processes; None if unknown.
        """
        if self.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        if batch is not None and self.synchronises_batch_norm(model, device, batch=batch):
            logger.info("batch norm takes its statistics over all %d processes (SyncBatchNorm)", self.size)
            # Parameters and their names stay the same, and so do optimizers and checkpoints.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        indices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=indices, gradient_as_bucket_view=True)

    def synchronises_batch_norm(self, model: nn.Module, device: torch.device, *, batch: int) -> bool:
        """Return whether batch norm has too few images in a process, and the device can do something about it."""
        return device.type == "cuda" and self.has_small_batches(model, batch=batch)

    def has_small_batches(self, model: nn.Module, *, batch: int) -> bool:
        """Return whether trainable batch norms see fewer than SYNC_BATCH_NORM_BELOW images in a process.

        ``batch`` counts the images of a step over all processes. Frozen batch norms take no statistics.
        """
        if self.size == 1 or batch // self.size >= SYNC_BATCH_NORM_BELOW:
            return False
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        return any(parameter.requires_grad for norm in norms for parameter in norm.parameters())

    def batch_norm_note(self, model: nn.Module, device: torch.device, *, batch: int) -> str | None:
        """Return a note on batch norm on these processes, if there is one; arguments as of ``wrap``."""
        if not self.has_small_batches(model, batch=batch) or self.synchronises_batch_norm(model, device, batch=batch):
            return None
        return (
            f"Each of {self.size} processes has {batch // self.size} images of a step, too few for the statistics of "
            f"batch norm: a hyperparameters.batchSize of {self.size * SYNC_BATCH_NORM_BELOW} or more usually gives a "
            "better model."
        )

    def average_buffers(self, module: nn.Module) -> None:
        """Replace the module's floating-point buffers by their mean over all processes, in place.

        Each process updates the running statistics of batch norm by its own images; until they are averaged, every
        process evaluates another network (timm's ``--dist-bn reduce``).
        """
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        if self.size == 1 or not buffers:
            return
        with torch.no_grad():
            flat = torch.cat([buffer.reshape(-1).to(torch.float32) for buffer in buffers])
            dist.all_reduce(flat)
            flat /= self.size
            for buffer, mean in zip(buffers, torch.split(flat, [buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def any_of(self, flags: list[bool]) -> list[bool]:
        """Return for each flag whether any process has it set; all get the same answer."""
        if self.size == 1:
            return flags
        together = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(together, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in together.tolist()]

    def gather(self, item: Any) -> list[Any]:
        """Return the items of all processes, by rank; everybody gets all, once the slowest process has come here."""
        if self.size == 1:
            return [item]
        self.barrier()
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self.control)
        return items

    def gather_to_leader(self, item: T) -> list[T] | None:
        """Return the items of all processes, by rank, on the leader, once the slowest has come here.

        None on the others.
        """
        if self.size == 1:
            return [item]
        self.barrier()
        items: list[Any] | None = [None] * self.size if self.is_leader else None
        dist.gather_object(item, items, dst=0, group=self.control)
        return items

    def announce(self, name: str) -> None:
        """Set a flag that all processes can read; nobody waits for it."""
        if self.store is not None:
            self.store.set(f"bloomery/announced/{name}", "1")

    def is_announced(self, name: str) -> bool:
        """Return whether any process has set that flag."""
        return self.store is not None and self.store.check([f"bloomery/announced/{name}"])

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return what the leader makes, on all processes; the others wait for it, however long it takes."""
        items: list[Any] = [make() if self.is_leader else None]
        if self.size > 1:
            self.barrier()
            dist.broadcast_object_list(items, src=0, group=self.control)
        made: T = items[0]
        return made

    def barrier(self) -> None:
        """Wait until all processes have come here, as long as they are alive; raise PeerLost if one is not."""
        if self.liveness is not None:
            self.liveness.barrier()

    def require_same(self, what: str, value: str) -> None:
        """Raise PeerLost (PeersDisagree) if the value, named ``what``, is not the same on all processes."""
        values = self.gather(value)
        if len(set(values)) > 1:
            each = ", ".join(f"process {rank + 1}: {value}" for rank, value in enumerate(values))
            raise PeerLost("PeersDisagree", f"the processes of this training disagree on {what} ({each})"[:1000])

    def leave(self) -> None:
        """End together: the others wait until the leader has written everything, as long as it is alive."""
        if self.store is None or self.liveness is None:
            return
        if self.is_leader:
            self.store.set(_DONE, "1")
            # The store ends with the leader's process: no process may still use it.
            self.store.wait([f"{_DONE}/{rank}" for rank in range(1, self.size)], timedelta(seconds=60))
        else:
            self.liveness.wait_for({0: _DONE})
            self.liveness.stop()
            self.store.set(f"{_DONE}/{self.rank}", "1")


def leads(config: TrainConfig, environment: Mapping[str, str]) -> bool:
    """Return whether this process is the leader of its training; known before the processes have met."""
    return int(environment.get("LOCAL_RANK", 0)) == 0 and _node(config, environment) == 0


@contextmanager
def joined(config: TrainConfig, environment: Mapping[str, str]) -> Iterator[World]:
    """Meet the other processes of the training, if there are any.

    $JOB_COMPLETION_INDEX is this node's number; $LOCAL_RANK and $LOCAL_WORLD_SIZE are set by ``processes`` where a node
    has several GPUs.

    Raises:
        PeerLost: another process does not come or goes away.
        Unavailable: this one cannot meet any.
        BadConfig: its GPU cannot be used.
    """
    local_rank, local_size = int(environment.get("LOCAL_RANK", 0)), int(environment.get("LOCAL_WORLD_SIZE", 1))
    size = config.nodes * local_size
    if torch.cuda.is_available():
        devices.require_kernels(local_rank)
    if size == 1:
        yield World()
        return
    rank = _node(config, environment) * local_size + local_rank
    with peers_watched():
        store = _meet(config, environment, rank=rank, size=size)
        liveness = Liveness(store, rank=rank, size=size)
        liveness.start()
        try:
            control = _init_groups(store, rank=rank, size=size, device=local_rank)
            logger.info("process %d of %d is there", rank + 1, size)
            world = World(rank, size, local_rank, local_size, store, control, liveness)
            yield world
            world.leave()
        except BaseException as error:
            liveness.report_failure(error)
            lost = _loss(error, liveness)
            if lost is None:
                raise
            raise lost from error
        finally:
            liveness.stop()
    dist.destroy_process_group()


def _init_groups(store: Store, *, rank: int, size: int, device: int) -> dist.ProcessGroup:
    """Start torch.distributed and return the control group, on the processors."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_SILENCE)
    control = dist.new_group(backend="gloo", timeout=_SILENCE)
    assert isinstance(control, dist.ProcessGroup)
    if cuda:
        # NCCL connects at its first use: what hinders it shows here, not in the middle of the first step.
        dist.all_reduce(torch.zeros(1, device=torch.device("cuda", device)))
    return control


@contextmanager
def peers_watched() -> Iterator[None]:
    """Turn what torch.distributed raises into PeerLost or, where no peer is to blame, Unavailable."""
    try:
        yield
    except RuntimeError as error:
        explained = explain(error)
        if explained is None:
            raise
        raise explained from error


_REFUSALS = ("invalid usage", "ncclInvalidUsage", "Duplicate GPU", "unhandled cuda error", "ncclUnhandledCudaError",
             "CUDA driver version", "no kernel image", "invalid argument", "ncclInvalidArgument")  # fmt: skip
"""NCCL's errors of this process's own GPU, driver or set-up (ncclResult_t in nccl.h); others may be a peer's end."""


def explain(error: RuntimeError) -> TrainerError | None:
    """Explain an error of torch.distributed; return None for other errors."""
    text = str(error)
    distributed = isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError)
    words = ("gloo", "Connection closed by peer", "Connection reset", "NCCL")
    if not distributed and not any(word in text for word in words):
        return None
    line = _line(text)
    if "EADDRINUSE" in text or "address already in use" in text:
        return Unavailable(
            "PortInUse", f"the port at which the processes of this training meet is in use on this machine: {line}"
        )
    if any(refusal in text for refusal in _REFUSALS):
        return Unavailable("CommunicationFailed", f"this process cannot exchange gradients with others: {line}")
    if "trying to connect" in text:
        return PeerLost(
            "PeerLost",
            f"the first process of this training does not answer: {line}; see whether its pod runs and the network "
            "between them is open",
        )
    return PeerLost("PeerLost", f"another process of this training went away: {line}")


def _line(text: str) -> str:
    """Return the first line, and what NCCL adds as its last error."""
    first, _, rest = text.partition("\n")
    _, _, last = rest.partition("Last error:")
    return " ".join(f"{first[:300]} {last[:300]}".split())


def _loss(error: BaseException, liveness: Liveness) -> PeerLost | None:
    """Return the loss of a peer in the words in which that peer reported its end.

    None if the error is not of that kind.
    """
    explained = explain(error) if isinstance(error, RuntimeError) else error
    if not isinstance(explained, PeerLost):
        return None
    failure = liveness.failure()
    if failure is None or failure in str(explained):
        return None
    return PeerLost("PeerLost", f"another process of this training went away: {failure}")


def _node(config: TrainConfig, environment: Mapping[str, str]) -> int:
    number = environment.get("JOB_COMPLETION_INDEX", "0" if config.nodes == 1 else "")
    if not number.isdecimal() or int(number) >= config.nodes:
        raise BadConfig(
            "InvalidConfig",
            f"nodes is {config.nodes}, but JOB_COMPLETION_INDEX, this node's number from 0, is {number!r}",
        )
    return int(number)


def _meet(config: TrainConfig, environment: Mapping[str, str], *, rank: int, size: int) -> Store:
    """Meet the other processes; return the store that all of them share."""
    address = config.rendezvous or environment.get("BLOOMERY_RENDEZVOUS") or "127.0.0.1:29500"
    host, _, port = address.rpartition(":")
    logger.info("process %d of %d meets the others at %s", rank + 1, size, address)
    store = TCPStore(
        host, int(port), size, is_master=rank == 0, timeout=_MEETING, wait_for_workers=False, use_libuv=True
    )
    first = store.compare_set("bloomery/processes", "", str(size)).decode()
    if first != str(size):
        raise Unavailable(
            "ProcessesDiffer",
            f"the nodes of this training have different numbers of GPUs: for one of them it has {first} processes, for "
            f"this one {size}",
        )
    store.set(f"bloomery/met/{rank}", "1")
    _await_all(store, [f"bloomery/met/{rank}" for rank in range(size)], address)
    store.set_timeout(_SILENCE)
    return store


def _await_all(store: Store, keys: list[str], address: str, *, limit: timedelta = _MEETING) -> None:
    """Wait until all keys are set; raise PeerLost after ``limit``."""
    deadline = time.monotonic() + limit.total_seconds()
    while not store.check(keys):
        if time.monotonic() > deadline:
            missing = sum(not store.check([key]) for key in keys)
            raise PeerLost(
                "PeerLost",
                f"{missing} of the {len(keys)} processes of this training did not come to {address} within "
                f"{limit.total_seconds() / 60:.0f} minutes; see whether all its pods run, and the network between them "
                "is open",
            )
        time.sleep(_POLL_SECONDS)
