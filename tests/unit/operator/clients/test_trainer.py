"""The progress of a trainer pod is cached for a while, and no longer."""

from __future__ import annotations

import asyncio
import secrets

import aiohttp
import pytest
from aiohttp import web

from bloomery_operator.clients.trainer import TrainerClient
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.status.workloads import PodView


class Trainer:
    """A pod's progress at an address of its own; each answer counts one epoch more."""

    def __init__(self) -> None:
        self.pod = PodView(
            name="a",
            uid="a",
            phase="Running",
            ip=f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.9",
            created="2026-05-01T11:00:00Z",
        )
        self.epoch = 0
        self.status = 200

    async def answer(self, _: web.Request) -> web.Response:
        self.epoch += 1
        return web.json_response({"epoch": self.epoch}, status=self.status)


@pytest.mark.parametrize("status", [200, 500])
def test_answer_is_cached_for_the_polling_interval(status: int) -> None:
    now, trainer = 100.0, Trainer()
    trainer.status = status

    async def scenario() -> None:
        nonlocal now
        app = web.Application()
        app.router.add_get("/progress", trainer.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, trainer.pod.ip, PROGRESS_PORT).start()
        try:
            async with aiohttp.ClientSession() as session:
                client = TrainerClient(session, poll_seconds=10, clock=lambda: now)
                answers = []
                for seconds in (0, 5, 4.9, 0.1):
                    now += seconds
                    answers.append(await client.read_progress(trainer.pod))
        finally:
            await runner.cleanup()
        expected = [{"epoch": 1}] * 3 + [{"epoch": 2}] if status == 200 else [None] * 4
        assert answers == expected
        assert trainer.epoch == 2

    asyncio.run(scenario())
