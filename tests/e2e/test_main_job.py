"""The main job on a real package of some three hundred files, through every real process."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.packages import unpack_sdist
from tests.e2e.processes import ADMIN_TOKEN, Kennel, closed, create, detail, register
from tests.e2e.repositories import Repository, new_repository

#: Of all lines, for Python code and comment; blank lines agree exactly (docs/lines.md).
TOLERANCE = 0.01
LINES = ("code_line_num", "comment_line_num", "blank_line_num", "total_line_num")
DOCUMENTED = {
    "id", "scan_id", "create_time", "waiting_time", "start_time", "execute_time", "project",
    "end_time", "expire_time", "task_num", "task_done", "tasks", "co_jobs", "state", "result_code",
    "result_code_msg", "result_msg", "result_path", "remarks", "remarked_by", "created_from",
    "creator", *LINES,
}  # fmt: skip
DOCUMENTED_TASK = {
    "id", "module", "task_name", "progress_rate", "state", "result_code", "result_msg",
    "result_path",
}  # fmt: skip


def cloc(tree: Path, languages: str) -> dict[str, int]:
    done = subprocess.run(
        ["cloc", "--json", "--quiet", "--skip-uniqueness", f"--include-lang={languages}", tree],
        check=True,
        capture_output=True,
        timeout=120,
    )
    found: dict[str, int] = json.loads(done.stdout)["SUM"]
    return found


async def follow(kennel: Kennel, project: Any, job_id: int) -> list[dict[str, float]]:
    """Watch a job until it is closed; return the progress of its tasks at every look."""
    api, looks = kennel.clients[0], []
    async with asyncio.timeout(300):
        while True:
            job = await detail(api, project, job_id)
            looks.append({t["task_name"]: t["progress_rate"] for t in job["tasks"]})
            if job["state"] == 2:
                return looks


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_real_package_is_scanned_and_every_answer_is_true(
    kennel: Kennel, tmp_path: Path
) -> None:
    tree = unpack_sdist("prompt_toolkit", "3.0.52", tmp_path)
    files = len(list(tree.rglob("*.py")))
    assert files >= 200
    repository = Repository(tree)
    repository.git("init", "--quiet", "--initial-branch=main")
    revision = repository.commit()
    api = await kennel.start_api()
    await kennel.start_scheduler()
    await kennel.start_worker("w", api=api, slots=3)
    project = await register(api, repository.url)

    job_id = await create(api, project, created_from="codedog_web")
    looks = await follow(kennel, project, job_id)

    job = await detail(api, project, job_id)
    assert set(job) >= DOCUMENTED
    assert (job["state"], job["result_code"], job["result_msg"]) == (2, 0, "success")
    assert (job["result_code_msg"], job["created_from"]) == ("成功", "codedog_web")
    assert job["project"] == {
        "id": project.id,
        "branch": "main",
        "repo_id": project.repo_id,
        "scan_scheme": job["project"]["scan_scheme"],
        "repo_scm_url": repository.url,
    }
    times = [datetime.fromisoformat(job[f"{name}_time"]) for name in ("create", "start", "end")]
    assert times == sorted(times)
    assert float(job["waiting_time"]) == pytest.approx((times[1] - times[0]).total_seconds())
    assert float(job["execute_time"]) == pytest.approx((times[2] - times[1]).total_seconds())
    assert datetime.fromisoformat(job["expire_time"]) > times[1]
    assert job["co_jobs"] == []
    assert job["revision"] == revision

    tasks = {task["task_name"]: task for task in job["tasks"]}
    assert set(tasks) == {"lines", "pylint", "ruff"}
    assert job["task_num"] == job["task_done"] == 3
    assert all(set(task) >= DOCUMENTED_TASK for task in tasks.values())
    assert {task["progress_rate"] for task in tasks.values()} == {100}
    assert {task["module"] for task in tasks.values()} == {"codelint", "codemetric"}
    moved = sorted({look["pylint"] for look in looks if "pylint" in look})
    assert len(moved) >= 4, moved
    assert 0 < moved[1] < 100

    for task in tasks.values():
        answer = await api.get(task["result_path"])
        assert answer.status == 200
        assert answer.body["engine"] == task["task_name"]
        assert answer.body["revision"] == revision
        assert answer.body["coverage"]["failed"] == 0
        log = await api.get(f"/api/v1/tasks/{task['id']}/log")
        assert log.status == 200
    report = (await api.get(tasks["pylint"]["result_path"])).body
    assert report["coverage"]["planned"] == report["coverage"]["analysed"] == files
    assert len(report["findings"]) > 1000
    assert (await api.get(job["result_path"])).status == 200

    await _check_lines(api, tasks["lines"], job, tree)
    await _check_logs(kennel)


async def _check_lines(api: Any, task: Any, job: Any, tree: Path) -> None:
    report = (await api.get(task["result_path"])).body
    python = next(found for found in report["lines"] if found["language"] == "python")
    if shutil.which("cloc") is None:
        pytest.skip("cloc is not installed: line counts are not compared with it")
    expected = cloc(tree, "Python")
    total = expected["code"] + expected["comment"] + expected["blank"]
    assert python["blank"] == expected["blank"]
    for kind in ("code", "comment"):
        assert abs(python[kind] - expected[kind]) <= TOLERANCE * total
    sums = {
        kind: sum(found[kind] for found in report["lines"]) for kind in ("code", "comment", "blank")
    }
    assert [job[name] for name in LINES] == [*sums.values(), sum(sums.values())]


async def _check_logs(kennel: Kennel) -> None:
    """No secret is in any line, and every line says who wrote it."""
    for daemon in kennel.daemons:
        lines = daemon.log_path.read_text().splitlines()
        assert lines
        for line in lines:
            assert {"event", "level", "timestamp"} <= set(json.loads(line))
            assert ADMIN_TOKEN not in line
            assert not any(prefix in line for prefix in ("kne_", "knw_", "knu_"))


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_an_incremental_scan_covers_the_change_and_counts_the_whole_tree(
    kennel: Kennel, tmp_path: Path
) -> None:
    repository = new_repository(
        tmp_path / "repo", {f"m{n}.py": f'"""M{n}."""\n\nX = {n}\n' for n in range(5)}
    )
    api = await kennel.start_api()
    await kennel.start_scheduler()
    await kennel.start_worker("w", api=api)
    project = await register(api, repository.url)

    first = await closed(api, project, await create(api, project))
    repository.commit({"m1.py": '"""M1."""\n\nimport os\n\nX = 1\n'})
    second = await closed(api, project, await create(api, project))
    third = await closed(api, project, await create(api, project))
    full = await closed(api, project, await create(api, project, incr_scan=False))

    ends = [(job["result_code"], job["result_msg"]) for job in (first, second, third, full)]
    assert [code for code, _ in ends] == [0, 0, 1, 0], ends
    assert [job["total_line_num"] for job in (first, second, third, full)] == [15, 17, 17, 17]
    assert third["result_msg"].startswith("代码无变更")
    assert third["task_num"] == 0
    assert third["start_time"] is None
    assert third["execute_time"] is None

    async def coverage(job: Any, engine: str) -> int:
        task = next(task for task in job["tasks"] if task["task_name"] == engine)
        planned: int = (await api.get(task["result_path"])).body["coverage"]["planned"]
        return planned

    assert [await coverage(job, "ruff") for job in (first, second, full)] == [5, 1, 5]
    assert [await coverage(job, "lines") for job in (first, second, full)] == [5, 5, 5]
