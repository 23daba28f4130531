#!/usr/bin/env python3
"""A whole worker for Kennel in one file: its own engine, Python's standard library, and git.

It offers the engine `todo-counter`, which reports every line with a marker such as a to-do, and
shows what docs/worker-protocol.md asks of a worker that is not Kennel's own: register, claim,
start, heartbeat, log, artifact, result, goodbye. One attempt at a time; two threads.

    python engine_worker.py --server http://127.0.0.1:8000 --state ./state --enrolment-token FILE

SIGTERM lets it finish what it runs, then it says goodbye.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINE = {"name": "todo-counter", "version": "1.0", "module": "codelint", "languages": []}
MARKER = re.compile(rb"\b(?:TO[D]O|FI[X]ME|XX[X])\b")
LANGUAGES = {".py": "python", ".js": "javascript", ".c": "c", ".go": "go", ".sh": "shell"}
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
#: Tries of a call that may work later, and the longest pause between two, seconds.
TRIES, PAUSE_S = 6, 5.0
#: A larger file is no source.
MOST_BYTES = 8 << 20


def now() -> float:
    """Return seconds that go on while the machine is suspended: leases end meanwhile."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeaseLost(Exception):
    """The attempt is over for the server: stop, drop everything about it."""


class Failed(Exception):
    """The attempt failed, for one of the protocol's reasons."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Refused(Exception):
    """The server understood and refuses; the same call again is of no use."""

    def __init__(self, status: int, code: object, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.code = code


class Server:
    """The calls of the protocol. Retries what may work later: no answer, 429 and 5xx."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") + "/worker/v1/"
        self.token = ""

    def post(self, name: str, body: Any, **options: Any) -> Any:
        """Send JSON; return the answer's, None for an empty one."""
        content = json.dumps(body).encode()
        return self.send("POST", name, content, {"Content-Type": "application/json"}, **options)

    def send(
        self,
        method: str,
        name: str,
        content: bytes,
        headers: dict[str, str],
        *,
        token: str = "",
        tries: int = TRIES,
        timeout_s: float = 40.0,
    ) -> Any:
        """Send bytes; return the answer's JSON."""
        headers = headers | {"Authorization": f"Bearer {token or self.token}"}
        pause_s = 0.2
        while True:
            tries -= 1
            # The path is the protocol's, the server's address the operator's.
            request = urllib.request.Request(  # noqa: S310
                self.url + name, content, headers, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise refusal(error) from None
                if tries <= 0:
                    raise
            except OSError:
                if tries <= 0:
                    raise
            threading.Event().wait(pause_s * (0.5 + secrets.randbelow(1000) / 2000))
            pause_s = min(pause_s * 2, PAUSE_S)


def refusal(error: urllib.error.HTTPError) -> Exception:
    """Return what a 4xx means."""
    try:
        body = json.loads(error.read())
    except ValueError:
        body = {}
    code = body.get("code", 0)
    if error.code == 409 and code == "lease_lost":
        return LeaseLost()
    refused = Refused(error.code, code, body.get("msg", "no reason given"))
    refused.__cause__ = error
    return refused


class Attempt:
    """One task under way. The heartbeat thread reads its progress and may cancel it."""

    def __init__(
        self, task: dict[str, Any], server: Server, folder: Path, fence: Callable[[], float]
    ) -> None:
        self.task = task
        self.server = server
        self.folder = folder
        self.fence = fence
        self.is_cancelled = threading.Event()
        self.phase = "checkout"
        self.files_done = self.files_planned = 0
        self.log_bytes = 0

    def is_over(self) -> bool:
        """Tell whether to stop at once: by order, or because the lease may be about to end."""
        return self.is_cancelled.is_set() or now() > self.fence()

    # --- the four steps: check out, run, upload, report ------------------------------------------

    def run(self) -> None:
        """Work on the task and report how it ended; nothing is reported when the lease is lost."""
        result = {key: self.task[key] for key in ("attempt_id", "lease_token")}
        try:
            result |= self.work()
        except Failed as failed:
            result |= {"outcome": "failed", "reason": failed.reason, "message": str(failed)[:4000]}
        self.report(result)

    def work(self) -> dict[str, Any]:
        source = self.folder / "source"
        self.check_out(source)
        if self.task["kind"] == "prepare":
            return {"outcome": "succeeded", "prepare": self.prepare(source)}
        report = self.scan(source)
        content = json.dumps(report).encode()
        self.phase = "reporting"
        self.upload("result.json", content)
        return {
            "outcome": "succeeded",
            "engine_version": ENGINE["version"],
            "coverage": report["coverage"],
            "findings": dict(Counter(finding["severity"] for finding in report["findings"])),
            "artifacts": [
                {
                    "name": "result.json",
                    "size_bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            ],
        }

    def report(self, result: dict[str, Any]) -> None:
        """Deliver the result until it has a verdict; mend what the server misses."""
        while not self.is_over():
            body = result | {"log_bytes": self.log_bytes}
            try:
                verdict = self.server.post("results", {"results": [body]})["results"][0]
            except OSError:
                # Heartbeats go on, so the lease does too, until the fence.
                continue
            if verdict["verdict"] == "log_incomplete":
                # The log is kept nowhere else here; what did not arrive is given up.
                self.log_bytes = verdict["log_bytes"]
            elif verdict["verdict"] == "artifact_missing":
                self.upload("result.json", self.report_file.read_bytes())
            else:
                print(f"attempt {result['attempt_id']}: {verdict['verdict']}", flush=True)
                return
        raise LeaseLost

    # --- git -------------------------------------------------------------------------------------

    def check_out(self, folder: Path) -> None:
        source = self.task["source"]
        revision, base = source["revision"], source["base_revision"]
        if not all(COMMIT.fullmatch(one) for one in (revision, base or revision)):
            raise Failed("scm_refused", "a revision is no commit id")
        self.git("clone", "--quiet", "--no-checkout", "--", source["scm_url"], str(folder))
        self.git("-C", str(folder), "checkout", "--quiet", "--detach", revision)
        self.say(f"checked out {revision}\n")

    def git(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> tuple[int, bytes]:
        """Run git without prompts, hooks or the user's configuration; killed with the attempt."""
        options = ("-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false")
        process = subprocess.Popen(
            ["git", *options, *arguments],
            env=self.git_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while True:
            try:
                output, errors = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if self.is_over():
                    process.kill()
                    process.communicate()
                    raise LeaseLost from None
        if process.returncode not in accept:
            words = errors.decode(errors="replace").strip()[-1000:]
            raise Failed("checkout_failed", f"git {arguments[0]}: {words}")
        return process.returncode, output

    def git_environment(self) -> dict[str, str]:
        source = self.task["source"]
        allowed = "file" if source["is_local"] else "https:http"
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": allowed,
        }
        auth = source["auth"]
        if auth is not None:
            if auth.get("private_key"):
                raise Failed("unsupported", "this worker has no ssh")
            # By the environment: arguments are seen by everybody on the machine.
            pair = f"{auth.get('username') or ''}:{auth.get('password') or ''}"
            basic = base64.b64encode(pair.encode()).decode()
            environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "http.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
            }
        return environment

    def files(self, source: Path) -> list[str]:
        """Return the regular files of the revision that are in the scan's scope, sorted."""
        listing = self.git("-C", str(source), "ls-tree", "-r", "-z", "HEAD")[1]
        entries = [entry.split(b"\t", 1) for entry in listing.split(b"\0") if entry]
        paths = [os.fsdecode(path) for mode, path in entries if mode.startswith(b"100")]
        return sorted(path for path in paths if self.is_in_scope(path))

    def is_in_scope(self, path: str) -> bool:
        scan_path = self.task["source"]["scan_path"].strip("/")
        if scan_path and not path.startswith(scan_path + "/"):
            return False
        inclusion = self.task["inclusion"]
        if inclusion and not any(fnmatch.fnmatchcase(path, one) for one in inclusion):
            return False
        return not any(fnmatch.fnmatchcase(path, one) for one in self.task["exclusion"])

    def changed(self, source: Path, base: str) -> set[str]:
        listing = self.git(
            "-C", str(source), "diff", "--name-only", "--no-renames", "-z", base, "HEAD"
        )[1]
        return {os.fsdecode(path) for path in listing.split(b"\0") if path}

    # --- the two kinds of task -------------------------------------------------------------------

    def prepare(self, source: Path) -> dict[str, Any]:
        """Say what there is to scan and what the base is to the head."""
        files, base = self.files(source), self.task["source"]["base_revision"]
        report = {"files": len(files), "languages": languages(files), "base": "none"}
        if base is None:
            return report
        where = ("-C", str(source))
        ancestry = (*where, "merge-base", "--is-ancestor", base, "HEAD")
        status = self.git(*ancestry, accept=(0, 1, 128))[0]
        if status != 0:
            return report | {"base": "history_rewritten" if status == 1 else "base_unreachable"}
        changed = sorted(self.changed(source, base) & set(files))
        return report | {
            "base": "ancestor",
            "changed": len(changed),
            "changed_languages": languages(changed),
        }

    def scan(self, source: Path) -> dict[str, Any]:
        """Run the engine: in an incremental scan over the changed files only."""
        files, base = self.files(source), self.task["source"]["base_revision"]
        if base is not None:
            files = sorted(self.changed(source, base) & set(files))
        self.phase, self.files_planned = "running", len(files)
        findings: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        skipped = 0
        for path in files:
            if self.is_over():
                raise LeaseLost
            try:
                if (source / path).stat().st_size <= MOST_BYTES:
                    findings += markers(path, (source / path).read_bytes())
                else:
                    skipped += 1
            except OSError as error:
                failures.append({"path": path, "message": str(error)[:1000]})
            self.files_done += 1
        self.say(f"{len(findings)} findings in {len(files)} files\n")
        return {
            "engine": ENGINE["name"],
            "engine_version": ENGINE["version"],
            "revision": self.task["source"]["revision"],
            "base_revision": base,
            "coverage": {
                "planned": len(files),
                "analysed": len(files) - len(failures) - skipped,
                "skipped": skipped,
                "failed": len(failures),
            },
            "failures": failures,
            "findings": findings,
        }

    # --- uploads ---------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Add to the task's log, at the offset where it ends."""
        content = text.encode()
        last = self.log_bytes + len(content) - 1
        headers = {"Content-Range": f"bytes {self.log_bytes}-{last}/*"}
        # Full, ended elsewhere, or not reached: work goes on without.
        with contextlib.suppress(Refused, OSError):
            self.upload_bytes("PATCH", "log", content, headers)
            self.log_bytes += len(content)

    @property
    def report_file(self) -> Path:
        return self.folder / "result.json"

    def upload(self, name: str, content: bytes) -> None:
        self.report_file.write_bytes(content)
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        headers = {"Content-Digest": f"sha-256=:{digest}:"}
        try:
            self.upload_bytes("PUT", f"artifacts/{name}", content, headers)
        except (Refused, OSError) as error:
            raise Failed("upload_failed", f"{name}: {error}") from None

    def upload_bytes(self, method: str, what: str, content: bytes, headers: dict[str, str]) -> None:
        headers = headers | {
            "Kennel-Lease": self.task["lease_token"],
            "Content-Type": "application/octet-stream",
        }
        self.server.send(method, f"attempts/{self.task['attempt_id']}/{what}", content, headers)


def languages(files: list[str]) -> dict[str, int]:
    return dict(Counter(LANGUAGES[s] for s in (Path(f).suffix for f in files) if s in LANGUAGES))


def markers(path: str, content: bytes) -> list[dict[str, Any]]:
    """The engine."""
    return [
        {
            "path": path,
            "line": number,
            "column": match.start() + 1,
            "rule": match.group().decode().lower(),
            "severity": "info",
            "message": line.strip().decode(errors="replace")[:200],
        }
        for number, line in enumerate(content.splitlines(), 1)
        for match in MARKER.finditer(line)
    ]


class Worker:
    """The two threads: this one claims and works, the other sends heartbeats."""

    def __init__(self, server: Server, state: Path, enrolment_token: str) -> None:
        self.server = server
        self.state = state
        self.enrolment_token = enrolment_token
        self.is_draining = threading.Event()
        self.is_done = threading.Event()
        self.attempt: Attempt | None = None
        self.register()

    def register(self) -> None:
        """Get an identity and the server's rules; what an earlier one held is requeued."""
        body = {
            "name": "todo-example",
            "instance_key": self.instance_key(),
            # The same in each try of this call: a late one then takes nothing from us.
            "registration_id": str(uuid.uuid4()),
            "engines": [ENGINE],
            "slots": 1,
            "protocol": {"min": 1, "max": 1},
        }
        answer = self.server.post("register", body, token=self.enrolment_token)
        self.rules = answer["intervals"]
        self.fence_at = now() + self.rules["fence_s"]
        self.take_token(answer)
        print(f"registered as worker {answer['worker_id']}", flush=True)

    def instance_key(self) -> str:
        """Return the key that makes this worker the same after a restart; never shown."""
        file = self.state / "instance.key"
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as out:
                out.write(secrets.token_urlsafe(32))
        return file.read_text().strip()

    def take_token(self, answer: dict[str, Any]) -> None:
        self.server.token = answer["token"]
        self.rotate_at = now() + 0.75 * answer["token_expires_in_s"]

    def serve(self) -> None:
        """Work until told to drain."""
        beats = threading.Thread(target=self.beat_until_done, name="heartbeat")
        beats.start()
        try:
            while not self.is_draining.is_set():
                self.claim_and_run()
            # What a last claim was offered goes back to the queue at once.
            self.server.post("goodbye", {"reason": "stopped"}, tries=2)
        finally:
            self.is_done.set()
            beats.join()

    def claim_and_run(self) -> None:
        # The same id in every try: when the answer was lost, it is given again.
        claim = {"claim_id": str(uuid.uuid4()), "slots": 1}
        try:
            answer = self.server.post("claim", claim, timeout_s=self.rules["claim_s"] + 10)
        except OSError as error:
            print(f"claim: {error}", flush=True)
            return
        except Refused as refused:
            if refused.status != 401:
                raise
            self.register()  # expired while the machine slept
            return
        for task in answer["tasks"] if answer and not self.is_draining.is_set() else []:
            ref = {key: task[key] for key in ("attempt_id", "lease_token")}
            started = self.server.post("start", {"attempts": [ref]})["attempts"][0]
            if started["verdict"] == "running":
                self.run(task)

    def run(self, task: dict[str, Any]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="attempt-", dir=self.state))
        self.attempt = Attempt(task, self.server, folder, lambda: self.fence_at)
        try:
            self.attempt.run()
        except LeaseLost:
            print(f"attempt {task['attempt_id']}: lease lost", flush=True)
        finally:
            self.attempt = None
            shutil.rmtree(folder, ignore_errors=True)

    # --- the heartbeat thread --------------------------------------------------------------------

    def beat_until_done(self) -> None:
        while not self.is_done.is_set():
            try:
                if now() > self.rotate_at:
                    self.take_token(self.server.post("token", {}, tries=1))
                self.beat()
            except (OSError, Refused) as error:
                print(f"heartbeat: {error}", flush=True)
                self.is_done.wait(1.0)

    def beat(self) -> None:
        attempt = self.attempt
        beats = []
        if attempt is not None:
            beats = [
                {
                    "attempt_id": attempt.task["attempt_id"],
                    "phase": attempt.phase,
                    "files_done": attempt.files_done,
                    "files_planned": attempt.files_planned,
                }
            ]
        body = {"attempts": beats, "is_draining": self.is_draining.is_set(), "hold": True}
        sent_at = now()
        timeout_s = self.rules["heartbeat_s"] + 3
        answer = self.server.post("heartbeat", body, tries=1, timeout_s=timeout_s)
        self.rules = answer["intervals"]
        # Counted from when the beat was sent: the server's lease began later.
        self.fence_at = sent_at + self.rules["fence_s"]
        over = {order["attempt_id"] for order in answer["cancel"]} | set(answer["unknown"])
        if attempt is not None and attempt.task["attempt_id"] in over:
            attempt.is_cancelled.set()
        if "drain" in answer["directives"]:
            self.is_draining.set()


def main() -> int:
    parser = argparse.ArgumentParser(description="A worker with the engine todo-counter.")
    parser.add_argument("--server", required=True, help="where Kennel's api listens")
    parser.add_argument("--state", required=True, type=Path, help="folder for key and checkouts")
    parser.add_argument("--enrolment-token", required=True, type=Path, help="file with the token")
    options = parser.parse_args()
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        worker = Worker(
            Server(options.server), options.state, options.enrolment_token.read_text().strip()
        )
    except (OSError, Refused) as error:
        print(f"cannot register: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.is_draining.set())
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
