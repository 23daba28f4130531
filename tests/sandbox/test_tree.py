"""What engines and repositories leave behind is removed and read whatever it is."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.sandbox.conftest import living
from worker.supervisor import signal_tree
from worker.tree import make_read_only, read_output, remove_tree, sweep


def test_read_only_folders_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    (tree / "link").symlink_to(kept)
    make_read_only(tree)
    (tree / "a").chmod(0)

    remove_tree(tree)
    remove_tree(tree)

    assert not tree.exists()
    assert (kept / "file").read_text() == "x"
    assert kept.stat().st_mode & 0o200


def test_a_link_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")

    remove_tree(tmp_path / "link")

    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_tree_deeper_than_any_path_may_be_long_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(top)
        for _ in range(3000):
            Path("deep").mkdir()
            os.chdir("deep")
    finally:
        os.fchdir(before)
        os.close(before)

    remove_tree(top)

    assert not top.exists()


def test_outputs_are_read_only_when_regular_and_of_that_size(tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")

    assert read_output(tmp_path / "report", max_bytes=5) == b"12345"
    assert read_output(tmp_path / "report", max_bytes=4) is None
    for name in ("link", "pipe", "missing", "."):
        assert read_output(tmp_path / name, max_bytes=1 << 20) is None


@pytest.mark.timeout(30)
def test_a_sweep_kills_what_carries_the_tag_and_nothing_else() -> None:
    tag = f"test-{uuid4().hex}"
    environment = {"PATH": "/usr/bin:/bin", "KENNEL_TASK": tag}
    orphan = subprocess.Popen(["setsid", "sleep", "1000"], env=environment)
    other = subprocess.Popen(["sleep", "1000"], env=environment | {"KENNEL_TASK": tag + "0"})
    try:
        assert sweep(tag) == 1

        assert orphan.wait(5) == -9
        assert living(tag) == []
        assert other.poll() is None
        assert sweep(tag) == 0
    finally:
        other.kill()
        other.wait()


def test_a_number_that_is_anothers_by_now_is_left_alone() -> None:
    """A listed process has ended and its number was given away: its parent is none of ours."""
    parent = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    stranger = int(parent.stdout.readline())
    try:
        signal_tree([stranger], signal.SIGKILL)
        assert parent.poll() is None
        os.kill(stranger, 0)

        signal_tree([parent.pid, stranger], signal.SIGTERM, spared=frozenset({parent.pid}))

        assert parent.wait(10) == 0  # `wait` in the shell returned: only its child was told
    finally:
        signal_tree([parent.pid, stranger], signal.SIGKILL)
        parent.communicate(timeout=10)
