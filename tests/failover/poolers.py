"""PgBouncer as Debian ships it, with the configuration of deploy/pgbouncer."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from core.store import postgres_install
from tests.e2e.processes import ROOT, eventually, free_port
from tests.failover.servers import DATABASE, Server, service_uid

EXAMPLE = ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini"
PASSWORD = "secret"


@dataclass
class Pooler:
    """A PgBouncer before one server."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://kennel:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    async def start(self) -> None:
        with (self.folder / "pgbouncer.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/pgbouncer", str(self.folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=postgres_install.ENVIRONMENT,
                start_new_session=True,
                **postgres_install.identity(service_uid()),
            )

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            try:
                connection = await asyncpg.connect(self.url, timeout=10, statement_cache_size=0)
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.close(timeout=10)
            return True

        await eventually(answers, within_s=30, what="PgBouncer answers")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def log(self) -> str:
        return (self.folder / "pgbouncer.log").read_text(errors="replace")


@asynccontextmanager
async def new_pooler(server: Server, **overrides: str) -> AsyncIterator[Pooler]:
    """Lend a PgBouncer with the example's configuration, but for addresses and *overrides*."""
    folder = Path(tempfile.mkdtemp(prefix="kennel-pgbouncer-"))
    pooler = Pooler(folder, free_port())
    users = folder / "userlist.txt"
    users.write_text(f'"kennel" "{PASSWORD}"\n')
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(EXAMPLE.read_text())
    settings["databases"] = {
        DATABASE: f"host=127.0.0.1 port={server.port} dbname={DATABASE}",
    }
    settings["pgbouncer"].update(
        {"listen_port": str(pooler.port), "auth_file": str(users), "unix_socket_dir": ""}
        | overrides
    )
    with (folder / "pgbouncer.ini").open("w") as file:
        settings.write(file)
    uid = service_uid()
    if uid is not None:
        for path in (folder, users, folder / "pgbouncer.ini"):
            os.chown(path, uid, uid)
    try:
        await pooler.start()
        yield pooler
    finally:
        pooler.kill()
        shutil.rmtree(folder)
