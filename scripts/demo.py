"""Show Kennel from start to end on a real repository: what `make demo` runs.

Three releases of a package become the history of a Git repository; `kennel up` is started on it,
scans it whole, then what a commit changed, then nothing; the three endpoints answer over HTTP.
Everything lives in a temporary folder and is gone at the end, also after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
KENNEL = Path(sys.executable).with_name("kennel")
#: Downloads are kept here; `make clean` removes them with the rest of .venv.
CACHE = Path(sys.prefix) / "demo"
#: Small, real, and built with a backend that is installed here already: its code is not run.
PACKAGE = "python-multipart"
RELEASES = {
    "0.0.18": "7a68db60c8bfb82e460637fa4750727b45af1d5e2ed215593f917f64694d34fe",
    "0.0.19": "905502ef39050557b7a6af411f454bc19526529ca46ae6831508438890ce12cc",
    "0.0.20": "8dd0cab45b8e23064ae09147625994d090fa46f5b0d1e13af944c331a7fa9d13",
}
#: A demo that takes longer is stuck.
LIMIT_S = 300
CHANGED = "python_multipart/decoders.py"
CHANGE = '''

def unused_helper(values=[]):
    """Added by the demo, with a fault for the engines to find."""
    import os
    for value in values:
        pass
'''
#: What the programs started here need of our environment; nothing of it is a setting of Kennel's.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR")
AUTHOR = ("-c", "user.name=Kennel demo", "-c", "user.email=demo@example.org")


class DemoFailed(Exception):
    """Something did not go as it should."""


def main() -> int:
    """Run the demo; 0 when all went well."""
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(LIMIT_S)
    started = time.monotonic()
    try:
        archives = fetch_releases()
        with tempfile.TemporaryDirectory(prefix="kennel-demo-") as folder:
            show(Path(folder), archives)
    except (DemoFailed, OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
        say(f"The demo failed: {error}" if str(error) else "The demo was interrupted.")
        return 1
    say(f"Done in {time.monotonic() - started:.0f} s. Nothing is left running; nothing is left.")
    return 0


def show(folder: Path, archives: dict[str, Path]) -> None:
    """Show everything, with all files below *folder*."""
    repo, data_dir = folder / "repo", folder / "data"
    say(f"1. A Git repository of {len(archives)} releases of {PACKAGE}, one commit each.")
    make_repository(repo, archives)
    print(git(repo, "log", "--format=  %h %s", "--shortstat"), end="")
    say("2. Everything started: database, api, scheduler, worker (kennel up).")
    with running_server(data_dir):
        say("3. A full scan of the repository (kennel scan).")
        scan(data_dir, repo, result_code=0, is_incremental=False)
        say(f"4. A commit changes {CHANGED}; an incremental scan looks at that file alone.")
        with (repo / CHANGED).open("a") as file:
            file.write(CHANGE)
        commit(repo, "Add a helper nobody needs")
        scan(data_dir, repo, result_code=0, is_incremental=True)
        say("5. Again, with nothing new: the job closes at once with code 1 and runs no task.")
        scan(data_dir, repo, result_code=1, is_incremental=True)
        say("6. A commit takes the helper away again; the three endpoints, over HTTP.")
        git(repo, *AUTHOR, "revert", "--no-edit", "HEAD")
        show_endpoints(data_dir)
        say("7. Everything stopped (Ctrl-C).")
    left = [pid for pid in processes_of(folder) if pid != os.getpid()]
    if left:
        raise DemoFailed(f"processes are left: {left}")


# --- the repository -----------------------------------------------------------------------------


def fetch_releases() -> dict[str, Path]:
    """Return the source archive of each release; downloaded once, checked by hash."""
    CACHE.mkdir(exist_ok=True)
    archives = {
        version: CACHE / f"{PACKAGE.replace('-', '_')}-{version}.tar.gz" for version in RELEASES
    }
    missing = [version for version, archive in archives.items() if not archive.exists()]
    if missing:
        say(f"Downloading the sources of {PACKAGE} {', '.join(missing)} with pip (once).")
    for version in missing:
        download(version)
    return archives


def download(version: str) -> None:
    """Fetch one source archive into the cache."""
    with tempfile.TemporaryDirectory(prefix="kennel-demo-") as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{PACKAGE}=={version} --hash=sha256:{RELEASES[version]}\n")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"),
                # Nothing is installed for it, and no build of it is made.
                *("--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
                *("--require-hashes", "-r", wanted, "-d", CACHE),
            ],
            check=True,
            timeout=120,
        )


def make_repository(repo: Path, archives: dict[str, Path]) -> None:
    """Commit one release after another."""
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    for version, archive in archives.items():
        for entry in repo.iterdir():
            if entry.name != ".git":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with tarfile.open(archive) as tar:
            top = f"{PACKAGE.replace('-', '_')}-{version}/"
            for member in tar.getmembers():
                member.name = member.name.removeprefix(top)
                tar.extract(member, repo, filter="data")
        commit(repo, f"Release {version}")


def commit(repo: Path, message: str) -> None:
    """Commit everything."""
    git(repo, "add", "--all")
    git(repo, *AUTHOR, "commit", "-q", "-m", message)


def git(repo: Path, *arguments: str) -> str:
    """Run git in *repo*; return what it prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(repo.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", repo, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise DemoFailed(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


# --- Kennel -------------------------------------------------------------------------------------


@contextmanager
def running_server(data_dir: Path) -> Iterator[None]:
    """Run `kennel up` on a free port for the block; show what it says."""
    argv = [str(KENNEL), "up", "--listen", "127.0.0.1:0"]
    command_line(argv)
    log = data_dir.with_name("up.log")
    with log.open("w") as errors:
        up = subprocess.Popen(
            argv,
            env=environment_of(data_dir),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C in a terminal is ours; the server is stopped when we have what we want.
            start_new_session=True,
        )
    assert up.stdout is not None
    try:
        for line in up.stdout:
            print(f"  {line}", end="", flush=True)
            if line.strip().startswith("stop "):
                break
        else:
            raise DemoFailed(f"kennel up did not start: {log.read_text()[-1000:]}")
        yield
        up.send_signal(signal.SIGINT)
        began = time.monotonic()
        for line in up.stdout:
            print(f"  {line}", end="", flush=True)
        status = up.wait(timeout=15)
        print(f"  (exit status {status}, {time.monotonic() - began:.1f} s)")
        if status:
            raise DemoFailed(f"kennel up ended with {status}: {log.read_text()[-1000:]}")
    finally:
        if up.poll() is None:
            up.terminate()
            up.wait(timeout=15)


def scan(data_dir: Path, repo: Path, *, result_code: int, is_incremental: bool) -> None:
    """Scan with the live progress; check that it ended as it should."""
    run_kennel(data_dir, "scan", str(repo), "--findings", "3")
    job = json.loads(read_kennel(data_dir, "jobs", "list", "--limit", "1", "--json"))[0]
    detail = json.loads(read_kennel(data_dir, "jobs", "show", str(job["id"]), "--json"))
    found = (detail["result_code"], detail["scan_type"] == 1)
    if found != (result_code, is_incremental):
        raise DemoFailed(f"job {job['id']} ended otherwise: {json.dumps(detail)}")


def show_endpoints(data_dir: Path) -> None:
    """Ask the three documented endpoints over HTTP and print what they answer."""
    project = json.loads(read_kennel(data_dir, "projects", "list", "--json"))[0]["project"]
    org, team, repo, number = project.split("/")
    base = f"/server/main/api/orgs/{org}/teams/{team}/repos/{repo}/projects/{number}"
    created = call(data_dir, "POST", f"{base}/scans/create/", {"incr_scan": True})
    call(data_dir, "GET", f"{base}/jobs/?limit=2")
    job_id = created["job"]["id"]
    print("\n  The new job is closed in a moment:")
    run_kennel(data_dir, "jobs", "show", str(job_id), "--follow")
    call(data_dir, "GET", f"{base}/jobs/{job_id}/detail/")


def call(data_dir: Path, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send one request with the local token; print it and its answer."""
    card = json.loads((data_dir / "server.json").read_text())
    token = Path(card["token_file"]).read_text().strip()
    content = None if body is None else json.dumps(body).encode()
    print(f"\n  {method} {path}" + (f"  {content.decode()}" if content else ""))
    request = urllib.request.Request(  # noqa: S310 - our own server, by http
        card["url"] + path,
        method=method,
        data=content,
        headers={"Authorization": f"Token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found = json.loads(answer.read())
    print("  " + json.dumps(found, indent=2, ensure_ascii=False).replace("\n", "\n  "), flush=True)
    return found


def run_kennel(data_dir: Path, *arguments: str) -> None:
    """Run a command with its output where ours goes."""
    argv = [str(KENNEL), *arguments]
    command_line(argv)
    done = subprocess.run(argv, env=environment_of(data_dir), check=False, timeout=LIMIT_S)
    if done.returncode:
        raise DemoFailed(f"kennel {arguments[0]} ended with {done.returncode}")


def read_kennel(data_dir: Path, *arguments: str) -> str:
    """Return what a command prints."""
    return subprocess.run(
        [KENNEL, *arguments],
        env=environment_of(data_dir),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def environment_of(data_dir: Path) -> dict[str, str]:
    """Return what Kennel's processes get: ours, without any setting of the user's own Kennel."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"KENNEL_DATA_DIR": str(data_dir)}


def processes_of(folder: Path) -> list[int]:
    """Return the processes that name *folder* on their command line or in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue  # gone, or not ours
            if os.fsencode(folder) in said:
                found.append(int(process.name))
    return found


def say(text: str) -> None:
    """Tell what happens."""
    is_bold = sys.stdout.isatty()
    print(f"\n\033[1m{text}\033[0m" if is_bold else f"\n{text}", flush=True)


def command_line(argv: list[str]) -> None:
    """Show a command as a person would type it."""
    print(f"  $ kennel {' '.join(argv[1:])}", flush=True)


def _too_slow(_number: int, _frame: FrameType | None) -> NoReturn:
    raise DemoFailed(f"not done within {LIMIT_S} s")


if __name__ == "__main__":
    sys.exit(main())
