"""What `kennel doctor` looks at, one check a subject; each says what to do about what it finds.

Nothing is assumed from version numbers where it can be tried: engines are probed, isolation is
used once, the embedded PostgreSQL is started in a folder of its own where no data exists yet.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.local.place import Place, PlaceTaken
from cli.running import read_settings
from cli.text import printable
from core.domain.errors import KennelError, ScmError, SettingError
from core.runtime.settings import Settings

Level = Literal["good", "odd", "bad"]
LEVELS: Mapping[Level, str] = {"good": "ok     ", "odd": "note   ", "bad": "MISSING"}

_OLDEST_PYTHON, _TOO_NEW_PYTHON = (3, 11), (3, 14)
#: The oldest git that knows all that Kennel asks of it.
_OLDEST_GIT = (2, 31)
_ENGINE_OF_LAST_RESORT = "lines"


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found. `odd` is worth knowing, `bad` keeps Kennel from scanning."""

    name: str
    level: Level
    text: str

    def document(self) -> dict[str, str]:
        """Return it for scripts."""
        return {"name": self.name, "level": self.level, "text": self.text}


async def examine(data_dir: Path | None, *, with_database: bool) -> list[Check]:
    """Look at everything; never raises for what it finds."""
    checks = [_python()]
    settings = None
    try:
        settings = read_settings(data_dir=data_dir)
        checks.append(Check("settings", "good", f"data directory {printable(settings.data_dir)}"))
    except SettingError as error:
        checks.append(Check("settings", "bad", str(error)))
    checks.append(await _git())
    checks.append(await asyncio.to_thread(_isolation))
    checks += await _engines()
    if settings is not None and with_database:
        checks.append(await _database(settings))
    return checks


def _python() -> Check:
    text = f"{platform.python_version()} at {sys.executable}"
    if _OLDEST_PYTHON <= sys.version_info[:2] < _TOO_NEW_PYTHON:
        return Check("python", "good", text)
    return Check("python", "bad", f"{text}: Kennel needs 3.11, 3.12 or 3.13")


async def _git() -> Check:
    from core.runtime.git import Git

    try:
        found = await Git().run("version", timeout_s=10.0)
    except ScmError as error:
        return Check("git", "bad", f"{error.message}: install the package git")
    text = printable(found.stdout.decode("utf-8", "replace").strip())
    version = tuple(int(part) for part in text.split()[-1].split(".")[:2] if part.isdigit())
    if not found.is_ok or version < _OLDEST_GIT:
        needed = ".".join(map(str, _OLDEST_GIT))
        return Check("git", "bad", f"{text or 'git does not run'}: {needed} or newer is needed")
    return Check("git", "good", text)


def _isolation() -> Check:
    from worker.bubblewrap import bubblewrap_problem

    problem = bubblewrap_problem()
    if not problem:
        return Check("isolation", "good", "bwrap: engines see neither host nor network")
    return Check("isolation", "odd", f"group: process group and limits only; {printable(problem)}")


async def _engines() -> list[Check]:
    from worker.engines.catalogue import probe_all

    checks = []
    for probed in await asyncio.to_thread(probe_all):
        name, probe = probed.engine.name, probed.probe
        if probe.is_usable:
            checks.append(Check(name, "good", f"engine, version {printable(probe.version)}"))
            continue
        level: Level = "bad" if name == _ENGINE_OF_LAST_RESORT else "odd"
        checks.append(Check(name, level, f"engine not usable: {printable(probe.problem)}"))
    return checks


async def _database(settings: Settings) -> Check:
    try:
        if settings.database_url is not None:
            return await _named_database(settings)
        return await _own_database(settings)
    except PlaceTaken as taken:
        return Check("database", "good", f"PostgreSQL of its own, in use by process {taken.pid}")
    except (KennelError, OSError) as error:
        return Check("database", "bad", printable(error))


async def _named_database(settings: Settings) -> Check:
    from core.store import schema
    from core.store.pool import create_pool

    named, direct = settings.database_url, settings.direct_database_url
    assert named is not None
    assert direct is not None
    async with await create_pool(
        named.get_secret_value(),
        size=1,
        application_name="kennel-doctor",
        connect_deadline_s=5.0,
        pooled=settings.is_pooled,
    ) as db:
        version = await db.fetchval("SHOW server_version")
        text = f"PostgreSQL {printable(version)} of KENNEL_DATABASE_URL"
        if int(await db.fetchval("SHOW server_version_num")) < 150_000:
            return Check("database", "bad", f"{text}: 15 or newer is needed")
        await schema.check_schema(db)
    return Check("database", "good", f"{text}, schema {await schema.current(direct)}")


async def _own_database(settings: Settings) -> Check:
    from core.store import schema
    from core.store.embedded import EmbeddedPostgres

    if (settings.data_dir / "postgres" / "cluster").exists():
        with Place(settings.data_dir).held():
            async with EmbeddedPostgres(settings.data_dir) as server:
                found = await schema.current(server.dsn)
        suffix = f"schema {found}" if found else "no schema yet: the first start makes it"
        return Check("database", "good", f"PostgreSQL of its own starts, {suffix}")
    with tempfile.TemporaryDirectory(prefix="kennel-doctor-") as folder:
        async with EmbeddedPostgres(Path(folder), durable=False):
            pass
    return Check("database", "good", "PostgreSQL of its own starts; no data yet")
