"""An address of several servers: the one that writes is found, whatever the others do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg
import pytest

from core.store.dialing import CannotConnect, Dialer, servers_of
from core.store.pool import DatabaseUnavailable, create_pool, is_unavailable
from tests.e2e.processes import eventually, free_port
from tests.failover.servers import Server, new_server

pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all: what a test makes in it has names of its own."""
    with asyncio.Runner() as runner:
        lent = new_server()
        yield runner.run(lent.__aenter__())
        runner.run(lent.__aexit__(None, None, None))


@contextmanager
def deaf() -> Iterator[str]:
    """Lend an address whose host does not answer, as one that lost its power."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        # With its queue full the kernel drops further greetings without a word.
        listener.listen(0)
        first.connect(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Line:
    """A way to a server that can fall silent: open, and nothing comes through."""

    port: int
    is_silent: bool = False
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers += [writer, server]
        await asyncio.gather(self._pump(reader, server), self._pump(answers, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while content := await source.read(65536):
                if not self.is_silent:
                    sink.write(content)
        except ConnectionError:
            pass
        if not self.is_silent:
            sink.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def line_to(server: Server) -> AsyncIterator[tuple[Line, str]]:
    line = Line(server.port)
    listener = await asyncio.start_server(line.relay, "127.0.0.1", 0)
    try:
        yield line, f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        line.close()


def url(*hosts: str) -> str:
    return f"postgresql://kennel@{','.join(hosts)}/kennel"


async def test_a_host_that_does_not_answer_holds_up_nobody(server: Server) -> None:
    with deaf() as dead:
        dialer = Dialer(url(dead, server.address), stagger_s=0.05)
        async with asyncio.timeout(30):
            # Given all the time in the world, the dead one would never have been left.
            connection = await dialer.connect(timeout_s=3600)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_the_server_that_was_good_is_asked_first(server: Server) -> None:
    with deaf() as dead:
        dialer = Dialer(url(dead, server.address), stagger_s=0.05)
        await (await dialer.connect(timeout_s=3600)).close()

        patient = dialer
        patient._stagger_s = 3600
        async with asyncio.timeout(30):
            await (await patient.connect(timeout_s=3600)).close()


async def test_who_takes_no_writes_is_passed_over(server: Server) -> None:
    async with new_server(default_transaction_read_only="off") as other:
        await other.query("ALTER ROLE kennel SET default_transaction_read_only = on")
        connection = await Dialer(url(other.address, server.address)).connect()

        assert connection.get_server_pid() != 0
        assert await connection.fetchval("SHOW port") == str(server.port)
        await connection.close()


async def test_the_refusal_of_all_names_each_and_no_password() -> None:
    with deaf() as dead:
        gone = f"127.0.0.1:{free_port()}"
        address = f"postgresql://kennel:secret@{dead},{gone}/kennel"
        with pytest.raises(CannotConnect) as caught:
            await Dialer(address, stagger_s=0.05).connect(timeout_s=0.5)

    text = str(caught.value)
    assert f"{dead}: no answer within 0.5 s" in text
    assert f"{gone}: " in text
    assert "[Errno 111]" in text
    assert "secret" not in text
    assert caught.value.is_transient
    assert is_unavailable(caught.value)


@pytest.mark.parametrize(
    ("dsn", "names"),
    [
        ("postgresql://u:p@a:1,b:2/d?x=y", ["a:1", "b:2"]),
        ("postgresql://u:p@a,b/d", ["a", "b"]),
        ("postgresql://u:p@/d?host=/run/a,/run/b&port=1,2", ["/run/a:1", "/run/b:2"]),
        ("postgresql://u:p@/d?host=a,b&port=5", ["a:5", "b:5"]),
        ("postgresql://u:p@/d?host=/run/a&port=5432", ["/run/a:5432"]),
        ("postgresql:///d", ["the database"]),
    ],
)
def test_an_address_is_taken_apart_as_it_is_written(dsn: str, names: list[str]) -> None:
    servers = servers_of(dsn)

    assert [server.name for server in servers] == names
    assert all(
        (urlsplit(server.dsn).scheme, urlsplit(server.dsn).path) == ("postgresql", "/d")
        for server in servers
    )


async def test_a_pool_leaves_a_server_that_falls_silent_with_all_its_connections(
    server: Server,
) -> None:
    async with line_to(server) as (line, first):
        db = await create_pool(
            url(first, server.address),
            size=3,
            application_name="kennel-test",
            statement_timeout_s=1,
        )
        async with db:
            await asyncio.gather(*(db.fetchval("SELECT pg_sleep(0.2)") for _ in range(3)))
            before = {row["pid"] for row in await backends(server)}
            assert len(before) == 3
            line.is_silent = True

            with pytest.raises(DatabaseUnavailable, match="did not answer"):
                # Its limit is five seconds more than the server's own.
                await db.fetchval("SELECT 1")

            async with asyncio.timeout(30):
                pids = await asyncio.gather(
                    *(db.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.2)") for _ in range(3))
                )
            assert not before & set(pids)


async def backends(server: Server) -> list[asyncpg.Record]:
    return await server.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'kennel-test'"
    )


async def test_a_statement_given_up_ends_its_connection_and_is_not_cancelled(
    server: Server,
) -> None:
    async with await create_pool(
        server.url(), size=2, application_name="kennel-test", statement_timeout_s=20
    ) as db:
        await db.execute("CREATE TABLE notes (n int)")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await db.execute("INSERT INTO notes SELECT 1 FROM pg_sleep(2)")

        async def is_written() -> bool:
            return await db.fetchval("SELECT count(*) FROM notes") == 1

        await eventually(is_written, within_s=30, what="the statement ran to its end")
        assert "canceling statement due to user request" not in server.log()


async def test_a_transaction_given_up_leaves_the_pool_whole(server: Server) -> None:
    async with await create_pool(server.url(), size=2, application_name="kennel-test") as db:
        for _ in range(6):
            with pytest.raises(Exception) as caught:  # which of many classes depends on the moment
                async with asyncio.timeout(0.2), db.transaction() as connection:
                    await connection.fetchval("SELECT pg_sleep(30)")
            assert isinstance(caught.value, TimeoutError) or is_unavailable(caught.value)

        assert await asyncio.gather(*(db.fetchval("SELECT 7") for _ in range(4))) == [7] * 4
