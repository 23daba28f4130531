"""Credentials are sealed with a key from the settings or one file all processes agree on."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from core.domain.errors import SettingError
from core.runtime.sealing import KEY_FILE, Sealer, make_key, open_sealer
from core.runtime.settings import Settings

OLD, NEW = make_key(), make_key()


def settings(data_dir: Path, key: str | None = None) -> Settings:
    return Settings(data_dir=data_dir, secret_key=SecretStr(key) if key else None)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_is_unsealed(text: str) -> None:
    sealer = Sealer([NEW])

    assert sealer.unseal(sealer.seal(text)) == text


def test_the_same_text_is_sealed_differently_each_time_and_not_readable() -> None:
    sealer = Sealer([NEW])

    first, second = sealer.seal("hunter2"), sealer.seal("hunter2")

    assert first != second
    assert b"hunter2" not in first


def test_a_new_key_in_front_seals_and_the_old_one_still_unseals() -> None:
    sealed = Sealer([OLD]).seal("hunter2")
    rotated = Sealer([NEW, OLD])

    assert rotated.unseal(sealed) == "hunter2"
    assert Sealer([NEW]).unseal(rotated.seal("hunter2")) == "hunter2"


@pytest.mark.parametrize(
    "change", [lambda sealed: sealed[:-3] + b"AA=", lambda _: b"", lambda _: b"x"]
)
def test_what_another_key_sealed_or_somebody_changed_is_refused(change: object) -> None:
    assert callable(change)
    sealed = Sealer([OLD]).seal("hunter2")

    with pytest.raises(SettingError, match="KENNEL_SECRET_KEY"):
        Sealer([NEW]).unseal(sealed)
    with pytest.raises(SettingError, match="KENNEL_SECRET_KEY"):
        Sealer([OLD]).unseal(change(sealed))


def test_the_keys_of_the_settings_are_used_and_no_file_is_made(tmp_path: Path) -> None:
    sealed = Sealer([OLD]).seal("hunter2")

    assert open_sealer(settings(tmp_path, f"{NEW}, {OLD}")).unseal(sealed) == "hunter2"
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_a_file_only_the_owner_reads_is_made_and_kept(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"

    sealed = open_sealer(settings(data_dir)).seal("hunter2")

    assert open_sealer(settings(data_dir)).unseal(sealed) == "hunter2"
    assert [path.name for path in data_dir.iterdir()] == [KEY_FILE]
    assert (data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_a_key_file_others_can_read_is_refused(tmp_path: Path) -> None:
    open_sealer(settings(tmp_path))
    (tmp_path / KEY_FILE).chmod(0o644)

    with pytest.raises(SettingError, match="chmod 600"):
        open_sealer(settings(tmp_path))


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(SettingError, match="KENNEL_DATA_DIR: cannot make"):
        open_sealer(settings(tmp_path / "file"))


def _seal(data_dir: Path, start: Barrier, answer: Connection) -> None:
    start.wait(60)
    answer.send(open_sealer(settings(data_dir)).seal(str(os.getpid())))


def test_processes_that_start_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for data_dir in (tmp_path / "first", tmp_path / "second"):
        start = context.Barrier(4)
        receiving, sending = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_seal, args=(data_dir, start, sending)) for _ in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)

        answers = [receiving.recv() for _ in processes if receiving.poll()]
        sealer = open_sealer(settings(data_dir))
        found = {sealer.unseal(sealed) for sealed in answers}
        assert found == {str(process.pid) for process in processes}
        assert [path.name for path in data_dir.iterdir()] == [KEY_FILE]
        for process in processes:
            process.close()
        receiving.close()
        sending.close()
