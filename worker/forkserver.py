"""Fork supervisors from one process that has loaded all they need.

To start an interpreter for each would cost forty times as much. A process of its own, started by
`worker.supervisors` as `python -I -S -B forkserver.py`; it imports the standard library only and
has one thread. Standard input is a socket of packets: each one asks for a supervisor and carries
the pipe of its orders, and is answered with a handle of the supervisor. The end of that socket is
the end of the daemon, and of this process; the supervisors see the end of their own pipes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_PACKET = 64


def serve(requests: socket.socket, supervise: Callable[[], int]) -> None:
    """Fork until the other end of *requests* is closed."""
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    # What is loaded by now stays as it is: pages that nobody writes to are shared by all.
    gc.freeze()
    while True:
        flags = socket.MSG_CMSG_CLOEXEC
        packet, descriptors, *_ = socket.recv_fds(requests, _PACKET, 1, flags)
        if not packet:
            return
        answer(requests, descriptors, supervise)


def answer(requests: socket.socket, descriptors: list[int], supervise: Callable[[], int]) -> None:
    """Answer one request: the process id and a handle, or the number of an error."""
    if not descriptors:  # no room for one more open file
        requests.send(f"error {errno.EMFILE}".encode())
        return
    # Held until there is a handle: a child that is reaped before would have none.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        pid, handle = fork(descriptors[0], before, supervise)
    except OSError as error:
        requests.send(f"error {error.errno}".encode())
    else:
        socket.send_fds(requests, [f"forked {pid}".encode()], [handle])
        os.close(handle)
    finally:
        os.close(descriptors[0])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(pipe: int, mask: set[int], supervise: Callable[[], int]) -> tuple[int, int]:
    """Fork a supervisor that obeys *pipe*; return its process id and a handle of it."""
    pid = os.fork()
    if pid == 0:
        become_supervisor(pipe, mask, supervise)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is the one we mean
        raise


def become_supervisor(pipe: int, mask: set[int], supervise: Callable[[], int]) -> NoReturn:
    """Be what a fresh process would be, with the pipe for standard input; never return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setsid()
        os.dup2(pipe, 0)  # in place of the server's socket, which is none of its business
        os.close(pipe)
        status = supervise()
    except BaseException:  # noqa: BLE001 - the edge of the process: nothing is above it
        traceback.print_exc()
    finally:
        os._exit(status)


def reap() -> None:
    """Collect the supervisors that have ended; how they ended concerns their handles' owner."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def load_supervisor() -> Callable[[], int]:
    """Return `main` of the module beside this one: without an import path there is no `import`."""
    path = Path(__file__).with_name("supervisor.py")
    spec = importlib.util.spec_from_file_location("supervisor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    main: Callable[[], int] = module.main
    return main


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the daemon went while it was being answered
        serve(socket.socket(fileno=0), load_supervisor())
