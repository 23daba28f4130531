"""Send a log to the server by offset: a lost answer or a new daemon only costs a rewind."""

from __future__ import annotations

import asyncio

from core.protocol.messages import AttemptRef
from worker.client import LOG_CHUNK, CallRefused, WorkerClient
from worker.spool import Entry

#: Wrong offsets in a row that are believed before the server counts as confused.
_MOST_REWINDS = 5


class LogStream:
    """One attempt's log, and how much of it the server has."""

    def __init__(self, client: WorkerClient, entry: Entry) -> None:
        #: Bytes the server has, as far as we know; the server corrects it.
        self.sent = 0
        self._client = client
        self._entry = entry

    async def push(self, size: int) -> None:
        """Send until the server has the first *size* bytes.

        Raises:
            ServerUnavailable, CallRefused: see there; what was sent stays sent.
            core.domain.errors.LeaseLost: the attempt is over for the server.
        """
        rewinds = 0
        while self.sent < size:
            offset = self.sent
            content = await asyncio.to_thread(self._read, offset, size - offset)
            if not content:
                return
            self.sent = await self._client.append_log(self._ref, offset, content)
            rewinds = 0 if self.sent == offset + len(content) else rewinds + 1
            if rewinds > _MOST_REWINDS:
                raise CallRefused(416, "log_offset", "it keeps moving the end of the log")

    @property
    def _ref(self) -> AttemptRef:
        return self._entry.ref

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with self._entry.log.open("rb") as file:
                file.seek(offset)
                return file.read(min(length, LOG_CHUNK))
        except FileNotFoundError:
            return b""
