"""What a look at the queue costs does not grow with what waits in it."""

from __future__ import annotations

import pytest

from core.store import reaping
from core.store.store import Store
from tests.store import lifecycle as life


async def test_leftovers_are_found_wherever_they_lie_a_part_of_the_queue_at_a_time(
    store: Store, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_WINDOW", 2)
    worker = await life.add_worker(store)
    engines = ("lines", "ruff", "pylint")
    await life.planned_job(store, project_id, worker, engines=engines, is_forced=True)
    closed = await life.planned_job(store, project_id, worker, engines=engines, is_forced=True)
    await store.db.execute(
        "UPDATE jobs SET phase = 'closed', open_tasks = 0, result_code = 301, result_msg = 'x',"
        " ended_at = now() WHERE id = $1",
        closed,
    )
    window = reaping.Window()

    swept = [await reaping.sweep_leftovers(store, window) for _ in range(4)]

    # The first window has the open job's tasks only; then it goes round.
    assert sum(swept) == 1
    assert swept[0] == 0
    left = await store.db.fetch("SELECT DISTINCT job_id FROM task_ready")
    assert [row["job_id"] for row in left] != [closed]
    assert len(left) == 1
