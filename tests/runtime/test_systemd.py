"""What a service manager hears, on a real socket, and that nothing happens without one."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.runtime import systemd


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET, in both forms systemd uses."""
    named = str(tmp_path / "notify") if request.param == "file" else f"@{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(named.replace("@", "\0"))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", named)
        yield channel


def test_each_message_arrives_as_one_datagram(manager: socket.socket) -> None:
    assert systemd.ready("2 slots")
    assert systemd.status("1/2 slots busy")
    assert systemd.stopping("draining")

    assert manager.recv(4096) == b"READY=1\nSTATUS=2 slots"
    assert manager.recv(4096) == b"STATUS=1/2 slots busy"
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=draining"


def test_a_status_cannot_smuggle_another_assignment(manager: socket.socket) -> None:
    systemd.status("fine\nMAINPID=1\r\n  WATCHDOG=1")

    assert manager.recv(4096) == b"STATUS=fine MAINPID=1 WATCHDOG=1"


def test_nothing_is_sent_outside_a_service() -> None:
    assert systemd.ready("2 slots") is False


@pytest.mark.parametrize("address", ["relative", "/nowhere/notify", "@nobody-listens-here"])
def test_a_service_manager_that_is_not_there_is_no_error(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert systemd.ready("2 slots") is False


async def test_signs_of_life_come_at_half_the_time_and_only_while_healthy(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    answers = iter([True, False, True])
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await systemd.watchdog(lambda: next(answers), pause=pause)

    assert pauses == [15.0] * 3
    assert [manager.recv(64), manager.recv(64)] == [b"WATCHDOG=1"] * 2
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(64)


async def test_without_a_watchdog_there_is_nothing_to_do() -> None:
    async with asyncio.timeout(5):
        await systemd.watchdog(lambda: True)

    assert systemd.watchdog_interval_s() is None
