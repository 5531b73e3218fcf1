"""The processes that train one model together, and what they tell each other.

A process alone is a world too: every exchange is then with itself, and torch.distributed is not started.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.errors import BadConfig, PeerLost

log = logging.getLogger(__name__)

_MEETING = timedelta(minutes=30)
"""How long processes wait for each other to start: a node may have to be found, an image to be pulled."""

_SILENCE = timedelta(minutes=10)
"""How long one waits for another in the middle of the work: longer than any step or shard of evaluation."""

_END = timedelta(hours=2)
_DONE = "bloomery/done"


@dataclass(frozen=True)
class World:
    """This process among the processes: `rank` of `size`, `local_rank` of `local_size` on this node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = None
    control: dist.ProcessGroup | None = None
    """A group on the processors, also where gradients travel between GPUs: asking there stalls no GPU."""

    @property
    def is_leader(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with its gradients averaged over all processes."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        devices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def any_of(self, flags: list[bool]) -> list[bool]:
        """For each flag, whether any process has it set; all get the same answer."""
        if self.size == 1:
            return flags
        together = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(together, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in together.tolist()]

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, by rank; everybody gets all."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self.control)
        return items

    def leave(self) -> None:
        """The leader has written everything: tells the others, who wait for it."""
        if self.store is None:
            return
        if self.is_leader:
            self.store.set(_DONE, "1")
            # The store ends with the leader's process: nobody may still be asking it.
            self.store.wait([f"{_DONE}/{rank}" for rank in range(1, self.size)], timedelta(seconds=60))
        else:
            self.store.wait([_DONE], _END)
            self.store.set(f"{_DONE}/{self.rank}", "1")


@contextmanager
def joined(config: TrainConfig, environment: Mapping[str, str]) -> Iterator[World]:
    """Meets the other processes of the training, if there are any.

    $JOB_COMPLETION_INDEX is this node's number; $LOCAL_RANK and $LOCAL_WORLD_SIZE are set by our launcher where a
    node has several GPUs. Raises PeerLost where another process does not come or goes away.
    """
    local_rank, local_size = int(environment.get("LOCAL_RANK", 0)), int(environment.get("LOCAL_WORLD_SIZE", 1))
    size = config.nodes * local_size
    if size == 1:
        yield World()
        return
    node = _node(config, environment)
    rank = node * local_size + local_rank
    with peers_watched():
        store = _meet(config, environment, rank=rank, size=size)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_SILENCE)
        control = dist.new_group(backend="gloo", timeout=_SILENCE)
        assert isinstance(control, dist.ProcessGroup)
        log.info("process %d of %d is there", rank + 1, size)
        world = World(rank, size, local_rank, local_size, store, control)
        yield world
        world.leave()
    dist.destroy_process_group()


@contextmanager
def peers_watched() -> Iterator[None]:
    """Turns what torch.distributed raises when a peer is gone into PeerLost."""
    try:
        yield
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if any(word in str(error) for word in ("gloo", "Connection closed by peer", "Connection reset", "NCCL")):
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> PeerLost:
    line = (str(error).splitlines() or [""])[0][:300]
    return PeerLost("PeerLost", f"another process of this training went away: {line}")


def _node(config: TrainConfig, environment: Mapping[str, str]) -> int:
    number = environment.get("JOB_COMPLETION_INDEX", "0" if config.nodes == 1 else "")
    if not number.isdecimal() or int(number) >= config.nodes:
        raise BadConfig(
            "InvalidConfig",
            f"nodes is {config.nodes}, but JOB_COMPLETION_INDEX, this node's number from 0, is {number!r}",
        )
    return int(number)


def _meet(config: TrainConfig, environment: Mapping[str, str], *, rank: int, size: int) -> Store:
    address = config.rendezvous or environment.get("BLOOMERY_RENDEZVOUS") or "127.0.0.1:29500"
    host, _, port = address.rpartition(":")
    log.info("process %d of %d meets the others at %s", rank + 1, size, address)
    return TCPStore(host, int(port), size, is_master=rank == 0, timeout=_MEETING, wait_for_workers=True, use_libuv=True)
