"""What a service tells systemd: ready, status, stopping, alive. Does nothing elsewhere.

Speaks sd_notify(3) itself: one datagram, no library.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from core.runtime.settings import read_service_manager

#: Longest a datagram waits for room in the service manager's queue, seconds.
_SEND_LIMIT_S = 2.0


def notify(state: str) -> bool:
    """Send *state* (`NAME=value` lines); False without a service manager or when it is deaf."""
    address = read_service_manager().notify_socket
    if address is None or address[0] not in "/@":
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_SEND_LIMIT_S)
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def ready(text: str) -> bool:
    """Tell that the service works: start-up is over. *text* as in `status`."""
    return notify(f"READY=1\nSTATUS={_line(text)}")


def status(text: str) -> bool:
    """Set the one line `systemctl status` shows."""
    return notify(f"STATUS={_line(text)}")


def stopping(text: str) -> bool:
    """Tell that the service drains or ends."""
    return notify(f"STOPPING=1\nSTATUS={_line(text)}")


def watchdog_interval_s() -> float | None:
    """Return how often to give a sign of life: half of what is allowed; None without watchdog."""
    watchdog_s = read_service_manager().watchdog_s
    return None if watchdog_s is None else watchdog_s / 2


async def watchdog(
    is_healthy: Callable[[], bool], *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Give signs of life while *is_healthy* until cancelled; return at once without watchdog.

    Runs on the event loop that does the work, so a blocked loop falls silent and is restarted.
    """
    interval_s = watchdog_interval_s()
    if interval_s is None:
        return
    while True:
        if is_healthy():
            notify("WATCHDOG=1")
        await pause(interval_s)


def _line(text: str) -> str:
    # A line break would begin another assignment.
    return " ".join(text.split())
