"""Kill -9 of anything: how long until the work goes on.

What a service manager does is done here at once: a killed api is started again. A second
scheduler and a second worker run beside the first, as in any installation that is to survive one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import psutil

from bench.harness.context import Context, eventually
from bench.harness.engine_worker import NAME
from bench.harness.processes import Crew, Daemon
from bench.harness.results import Figure, at_most
from bench.harness.scans import make_repository, register

#: An engine under way when its worker is killed, longer than any recovery, seconds.
_LONG_S = 600
_ENGINE_WORKER = "bench.harness.engine_worker"


async def measure(context: Context) -> Sequence[Figure]:
    """Kill one of each kind and wait until work that needs it runs again."""
    lease_s = context.sizes.lease_s
    goal = at_most(lease_s + 2)
    env = {
        "KENNEL_LEASE__LEASE_S": f"{lease_s:g}",
        "KENNEL_LEASE__FENCE_S": f"{lease_s * 0.73:g}",
        "KENNEL_LEASE__HEARTBEAT_S": f"{min(5.0, lease_s / 6):g}",
    }
    found: dict[str, float] = {}
    async with (
        context.server.database("recovery") as database,
        Crew(context, database, env) as crew,
    ):
        scene = await _Scene.set_up(crew)
        found["worker"] = await scene.kill_worker()
        found["scheduler"] = await scene.kill_scheduler()
        found["api"] = await scene.kill_api()
        found["postgres"] = await scene.kill_postgres(context)
    for what, seconds in found.items():
        context.say(f"{what}: {seconds:.2f} s")
    return [
        Figure(
            f"recovery_{what}",
            seconds,
            "s",
            goal,
            how=f"kill -9; lease {lease_s:g} s; "
            + (
                "until the killed worker's engine runs on the other worker"
                if what == "worker"
                else "until a job created after it has run to its end"
            ),
        )
        for what, seconds in found.items()
    ]


class _Scene:
    """Two schedulers, two workers, one api, a quick project and a long one."""

    def __init__(self, crew: Crew, api: Daemon, port: int) -> None:
        self.crew = crew
        self.api = api
        self.port = port
        self.quick = self.long = ""

    @classmethod
    async def set_up(cls, crew: Crew) -> _Scene:
        repository = crew.folder / "repository"
        make_repository(repository)
        api = await crew.api()
        scene = cls(crew, api, api.port)
        for _ in range(2):
            await crew.scheduler()
        for name in ("one", "two"):
            await crew.worker(api, name, module=_ENGINE_WORKER)
        scene.quick = await register(crew, api, repository, ":")
        engines = [{"name": NAME, "config": {"script": f"sleep {_LONG_S}"}}]
        repos, _, _ = scene.quick.rpartition("/projects/")
        scheme = await crew.post(api, f"{repos}/schemes/", {"name": "long", "engines": engines})
        asked = {"branch": "main", "scan_scheme_id": scheme["data"]["id"]}
        project = await crew.post(api, f"{repos}/projects/", asked)
        scene.long = f"{repos}/projects/{project['data']['id']}"
        await scene.run_quick(within_s=60)
        return scene

    async def run_quick(self, *, within_s: float) -> None:
        """Create a job and see it closed well; try again while that is refused."""

        async def created() -> int | None:
            body = {"force_create": True, "incr_scan": False}
            try:
                status, answer = await self.crew.call(
                    "POST", self.api, f"{self.quick}/scans/create/", body
                )
            except OSError:
                return None
            return int(answer["job"]["id"]) if status == 200 else None

        job_id = await eventually(created, within_s=within_s, what="a create is answered")

        async def closed() -> Any:
            path = f"{self.quick}/jobs/{job_id}/detail/"
            try:
                status, answer = await self.crew.call("GET", self.api, path)
            except OSError:
                return None
            return answer["data"] if status == 200 and answer["data"]["state"] == 2 else None

        job = await eventually(closed, within_s=within_s, what="a job after it is closed")
        if job["result_code"] != 0:
            raise RuntimeError(f"the job after it ended with {job['result_code']}")

    async def kill_worker(self) -> float:
        body = {"force_create": True, "incr_scan": False}
        answer = await self.crew.post(self.api, f"{self.long}/scans/create/", body)
        path = f"{self.long}/jobs/{answer['job']['id']}/detail/"

        async def holder() -> str | None:
            tasks = (await self.crew.get(self.api, path))["data"]["tasks"]
            return next((t["worker"] for t in tasks if t["state"] == 1 and t["worker"]), None)

        first = await eventually(holder, within_s=60, what="the long engine runs")
        daemon = next(d for d in self.crew.daemons if d.kind == "worker" and _name_of(d) == first)
        begun = time.perf_counter()
        await self.crew.kill(daemon)

        async def moved() -> bool:
            return await holder() not in (None, first)

        await eventually(moved, within_s=180, what="the long engine runs on the other worker")
        seconds = time.perf_counter() - begun
        cancel = path.replace("/detail/", "/cancel/")
        await self.crew.post(self.api, cancel, {"remarks": "bench"})
        return seconds

    async def kill_scheduler(self) -> float:
        daemon = next(d for d in self.crew.daemons if d.kind == "scheduler")
        begun = time.perf_counter()
        await self.crew.kill(daemon)
        await self.run_quick(within_s=180)
        return time.perf_counter() - begun

    async def kill_api(self) -> float:
        begun = time.perf_counter()
        await self.crew.kill(self.api)
        # At the same address: that is where the workers call.
        self.api = await self.crew.api(KENNEL_API__PORT=str(self.port))
        await self.run_quick(within_s=180)
        return time.perf_counter() - begun

    async def kill_postgres(self, context: Context) -> float:
        pid = context.server.pid
        begun = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0)
        await self.run_quick(within_s=180)
        return time.perf_counter() - begun


def _name_of(daemon: Daemon) -> str:
    """The name a worker was started with, as its own environment has it."""
    return psutil.Process(daemon.pid).environ()["KENNEL_WORKER__NAME"]
