"""Real PostgreSQL for every test that asks for one.

One server a session (with xdist: one a process, nothing shared, nothing to race for), 18 from the
wheel and 15 from the distribution where installed, both without fsync in a folder of pytest's.
A template database is migrated once a server; each test gets a copy of it, dropped afterwards.
`KENNEL_TEST_DATABASE_URL` names a server to use instead; its role must be allowed CREATE DATABASE.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from core.store import schema
from core.store.embedded import EmbeddedPostgres
from core.store.notify import Signals
from core.store.pool import Database, create_pool

PG15_BIN = Path("/usr/lib/postgresql/15/bin")
EXTERNAL_URL = os.environ.get("KENNEL_TEST_DATABASE_URL")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=("15", "18", "both"),
        default=None,
        help="PostgreSQL for tests with a database: 15, 18 or both; "
        "unsaid: both for tests/store and tests/migrations, 18 for the rest",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" not in metafunc.fixturenames:
        return
    if EXTERNAL_URL:
        metafunc.parametrize("postgres", ["external"], indirect=True, scope="session")
        return
    chosen = metafunc.config.getoption("--postgres")
    if chosen is None:
        folder = Path(metafunc.definition.path).parent.name
        chosen = "both" if folder in {"store", "migrations"} else "18"
    versions = ["18", "15"] if chosen == "both" else [chosen]
    metafunc.parametrize(
        "postgres", [f"pg{version}" for version in versions], indirect=True, scope="session"
    )


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server under test."""

    admin_url: str
    bin_dir: Path | None

    def url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.admin_url, timeout=30)
        try:
            yield connection
        finally:
            await connection.close(timeout=10)

    @asynccontextmanager
    async def database(self, *, template: str | None = None) -> AsyncIterator[str]:
        """Lend a new database, a copy of *template* or empty; drop it afterwards."""
        name = f"test_{secrets.token_hex(8)}"
        async with self.admin() as admin:
            copied = f"TEMPLATE {template} STRATEGY file_copy" if template else ""
            await admin.execute(f"CREATE DATABASE {name} {copied}")
        try:
            yield self.url(name)
        finally:
            async with self.admin() as admin:
                await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    """A running server, without a schema."""
    if request.param == "external":
        yield Postgres(EXTERNAL_URL or "", None)
        return
    bin_dir = PG15_BIN if request.param == "pg15" else None
    if bin_dir is not None and not (bin_dir / "postgres").exists():
        pytest.skip(f"PostgreSQL 15 is not installed ({bin_dir}): apt-get install postgresql-15")
    data_dir = tmp_path_factory.mktemp(request.param)
    if bin_dir is not None:
        # Up to 15 a server of another uid walks to its folder, and pytest's are private.
        data_dir = Path(tempfile.mkdtemp(prefix="kennel-test-"))
        data_dir.chmod(0o711)
        (data_dir / "postgres").mkdir(mode=0o711)
    loop = asyncio.new_event_loop()
    server = EmbeddedPostgres(data_dir, durable=False, bin_dir=bin_dir)
    try:
        url = loop.run_until_complete(server.start())
        yield Postgres(url, bin_dir)
    finally:
        loop.run_until_complete(server.stop())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        say_what_broke(data_dir)
        shutil.rmtree(data_dir)


def say_what_broke(data_dir: Path) -> None:
    """Print the lines that explain why connections broke: the log goes with the server."""
    broken = (
        "terminated by signal",
        "could not fork",
        "PANIC:",
        "out of memory",
        "crash of another",
    )
    lines = [
        line.strip()
        for path in sorted((data_dir / "postgres").glob("**/postgresql-*.log"))
        for line in path.read_text(errors="replace").splitlines()
        if any(words in line for words in broken)
    ]
    if lines:  # past the capture: the failures it explains are other tests'
        print(data_dir.name, *lines[:5], sep="\n", file=sys.__stderr__)


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> Iterator[str]:
    """The name of a database that has the migrated schema and nothing else."""
    name = f"template_{secrets.token_hex(8)}"

    async def run(statement: str) -> None:
        async with postgres.admin() as admin:
            await admin.execute(statement)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run(f"CREATE DATABASE {name}"))
        loop.run_until_complete(schema.upgrade(postgres.url(name)))
        yield name
        loop.run_until_complete(run(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
async def empty_database_url(postgres: Postgres) -> AsyncIterator[str]:
    """The address of a fresh database without a schema."""
    async with postgres.database() as url:
        yield url


@pytest.fixture
async def database_url(postgres: Postgres, template: str) -> AsyncIterator[str]:
    """The address of a fresh database with the migrated schema."""
    async with postgres.database(template=template) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A pool on a fresh database with the migrated schema."""
    async with await create_pool(database_url, size=8, application_name="kennel-test") as database:
        yield database


@pytest.fixture
async def signals(database_url: str) -> AsyncIterator[Signals]:
    """The wake-ups of one process on the database of `db`."""
    async with Signals(database_url) as running:
        yield running
