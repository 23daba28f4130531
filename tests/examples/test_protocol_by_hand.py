"""The document's worked example is typed in as it stands there, against the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from core.runtime.settings import Settings
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import Hand, create_job, enrolment_token, queue_engines, queue_preparation

DOCUMENT = Path(__file__).parents[2] / "docs" / "worker-protocol.md"
PROGRAMS = ("bash", "curl", "openssl", "base64", "sha256sum", "stat", "cut")
#: Where a reader puts in what the answer before had.
_ANSWERS = re.compile(r"^(?:TOKEN|ATTEMPT)=.*$", re.MULTILINE)


def steps() -> list[str]:
    """The example's paragraphs."""
    section = DOCUMENT.read_text("utf-8").partition("## By hand, with curl")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [_ANSWERS.sub("", step) for step in block[1].split("\n\n")]


async def typed(step: str, folder: Path, known: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", step),
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | known,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return said.decode()


@pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)} on the PATH"
)
async def test_the_worked_example_works(db: Database, signals: Signals, tmp_path: Path) -> None:
    store = Store(db, signals)
    settings = Settings(data_dir=tmp_path / "data")
    async with TestClient(TestServer(build_app(settings, store))) as client:
        api = Api(client, await a_token(store, "admin", name="root"), store)
        job_id = await create_job(api, await api.a_project())
        await queue_preparation(store, job_id)
        hand = await Hand.register(client, store)
        preparation = await hand.claim_and_start()
        report = {"files": 2, "languages": {"python": 2}}
        assert await hand.finish(preparation, prepare=report) == "accepted"
        await queue_engines(store, job_id, engines=("todo-counter",))
        known = {
            "KENNEL": str(client.make_url("")).rstrip("/"),
            "ENROLMENT": await enrolment_token(store),
        }
        preamble, register, claim, start, log, report_step, result, goodbye = steps()

        async def answers(step: str) -> Any:
            said = await typed(f"{preamble}\n{step}", tmp_path, known)
            decoder = json.JSONDecoder()
            found, at = [], 0
            while at < len(said):
                value, at = decoder.raw_decode(said, at)
                found.append(value)
            return found

        (registered,) = await answers(register)
        known["TOKEN"] = registered["token"]
        (claimed,) = await answers(claim)
        (task,) = claimed["tasks"]
        known |= {"ATTEMPT": str(task["attempt_id"]), "LEASE": task["lease_token"]}
        # A heartbeat is held for seconds; this one has nothing to wait for.
        started, beat = await answers(
            start.replace(
                '{\\"attempts\\": [{\\"attempt_id\\": $ATTEMPT, \\"files',
                '{\\"hold\\": false, \\"attempts\\": [{\\"attempt_id\\": $ATTEMPT, \\"files',
            )
        )
        logged = await typed(f"{preamble}\n{log}", tmp_path, known)
        uploaded = await typed(f"{preamble}\n{report_step}", tmp_path, known)
        (reported,) = await answers(result)
        (left,) = await answers(goodbye)

    assert started["attempts"] == [{"attempt_id": task["attempt_id"], "verdict": "running"}]
    assert beat["known"] == [task["attempt_id"]]
    assert logged.startswith("HTTP/1.1 202")
    assert "204 No Content" in uploaded
    assert [one["verdict"] for one in reported["results"]] == ["accepted"]
    assert left == {"released": 0}
