"""Why a job has not started, in a sentence, from what the API shows of it and of the workers."""

from __future__ import annotations

from typing import Any

from cli.client import CallRefused, Client
from cli.scan.following import WAITING
from cli.text import printable


async def why_waiting(client: Client, detail: dict[str, Any]) -> str | None:
    """Return what a waiting job waits for; None: it does not wait, or it cannot be told."""
    if detail["state"] != WAITING:
        return None
    earlier = sorted(one["id"] for one in detail["co_jobs"] if one["id"] < detail["id"])
    if earlier and not detail["force_create"] and not detail["tasks"]:
        numbers = ", ".join(map(str, earlier))
        return f"waits for the project's earlier open jobs: {numbers}"
    try:
        workers = await client.listed("/api/v1/workers/")
    except CallRefused:
        return None
    live = [worker for worker in workers if worker["state"] == "live"]
    if not live:
        return "waits for a worker: none is live (kennel workers list --all)"
    offered = {engine["name"] for worker in live for engine in worker["engines"]}
    missing = sorted({task["task_name"] for task in detail["tasks"]} - offered)
    if missing:
        return f"waits for a worker that offers {printable(', '.join(missing))}"
    if all(worker["slots_used"] >= worker["slots"] for worker in live):
        return "waits for a free slot: all workers are busy"
    return "is about to start"
