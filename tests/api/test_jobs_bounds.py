"""What lists, results and logs answer where there is too much, or nothing any more."""

from __future__ import annotations

from datetime import timedelta

from core.store import maintenance
from core.store.store import Store
from tests.api.caller import Api
from tests.store.history import add_task, close_job, close_task, hold


async def test_a_list_that_takes_too_long_is_refused_with_advice(api: Api, store: Store) -> None:
    project = await api.a_project()
    async with store.db.transaction() as busy:
        await busy.execute("LOCK TABLE job_labels IN ACCESS EXCLUSIVE MODE")

        answer = await api.get(f"{project}/jobs/?creator=ann")
        plain = await api.get(f"{project}/jobs/")

    assert answer.status == 400
    assert "longer than 2 s" in answer.body["msg"]
    assert "create_time_gte" in answer.body["msg"]
    assert plain.status == 200
    assert (await api.get(f"{project}/jobs/?creator=ann")).status == 200


async def test_what_is_older_than_the_kept_history_is_gone_and_says_so(
    api: Api, store: Store
) -> None:
    project = await api.a_project()
    job = await close_job(store.db, int(project.rpartition("/")[2]), task_num=1)
    task = await add_task(store.db, job)
    await close_task(store.db, job, await hold(store.db, job, task))
    await store.db.execute("UPDATE tasks SET created_at = now() - interval '100 days'")
    await store.db.execute("UPDATE task_outcomes SET closed_at = now() - interval '100 days'")
    assert await maintenance.turn_partitions(store, timedelta(days=9)) == 1
    shown = (await api.get(f"{project}/jobs/{job}/detail/")).data
    assert (len(shown["tasks"]), shown["is_history_pruned"]) == (1, False)

    assert await maintenance.drop_partitions(store, timedelta(days=90))

    shown = (await api.get(f"{project}/jobs/{job}/detail/")).data
    assert (shown["tasks"], shown["task_num"], shown["task_done"]) == ([], 1, 1)
    assert (shown["is_history_pruned"], shown["result_code"]) == (True, 0)
    for what in ("log", "result"):
        answer = await api.get(f"/api/v1/tasks/{task}/{what}")
        assert answer.status == 410
        assert answer.body["msg"] == f"task {task} is older than the history that is kept"
    assert (await api.get("/api/v1/tasks/1000002/log")).status == 404
    assert (await api.get(f"/api/v1/jobs/{job}/result")).body["tasks"] == []
