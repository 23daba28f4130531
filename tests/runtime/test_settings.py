"""Settings are read once, refuse what cannot work, name all of it at once and show no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.domain.errors import SettingError
from core.domain.states import ActiveJobPolicy
from core.runtime.settings import (
    VARIABLES,
    LeaseSettings,
    Settings,
    child_environment,
    load_settings,
    read_service_manager,
)
from core.runtime.settingtypes import is_loopback

LONG = "correct-horse-battery-staple-0123456789"


def refusal(**overrides: object) -> str:
    with pytest.raises(SettingError) as caught:
        load_settings(**overrides)
    return str(caught.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = load_settings()

    assert settings.database_url is None
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8000)
    assert settings.lease.lease_s > settings.lease.fence_s > 2 * settings.lease.heartbeat_s
    assert settings.api.active_job_policy is ActiveJobPolicy.QUEUE
    assert settings.limits.artifact_bytes == 64 * 2**20
    assert settings.worker.slots >= 1
    assert settings.allow_local_repos is False


def test_nested_variables_reach_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENNEL_WORKER__SLOTS", "7")
    monkeypatch.setenv("KENNEL_WORKER__TAGS", "gpu, big ,")
    monkeypatch.setenv("KENNEL_API__MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("KENNEL_API__TRUST_FORWARDED", "true")
    monkeypatch.setenv("KENNEL_LEASE__LOG_S", "0.25")
    monkeypatch.setenv("KENNEL_SERVER", "https://kennel.example/base/")
    monkeypatch.setenv("KENNEL_TOKEN", "kna_abcdefgh")

    settings = load_settings()

    assert settings.worker.slots == 7
    assert settings.worker.tags == ("gpu", "big")
    assert settings.api.max_body_bytes == 2 * 2**20
    assert settings.api.trust_forwarded is True
    assert settings.lease.log_s == 0.25
    assert settings.client.server == "https://kennel.example/base"
    assert settings.client.token is not None
    assert settings.client.token.get_secret_value() == "kna_abcdefgh"


def test_an_override_wins_and_none_is_no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENNEL_API__HOST", "127.0.0.2")
    monkeypatch.setenv("KENNEL_API__PORT", "9000")
    monkeypatch.setenv("KENNEL_TIMEZONE", "UTC")

    settings = load_settings(api={"port": 0, "host": None}, timezone=None)

    assert (settings.api.host, settings.api.port, settings.timezone) == ("127.0.0.2", 0, "UTC")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable.env, "")

    assert load_settings() == Settings()


def test_settings_cannot_be_changed() -> None:
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.api.port = 1  # type: ignore[misc]  # the very thing that must fail


def test_one_message_names_every_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENNEL_WORKER__SLOTS", "none")
    monkeypatch.setenv("KENNEL_DATABASE_URL", "mysql://kennel:hunter2@db/kennel")
    monkeypatch.setenv("KENNEL_BOOTSTRAP_TOKEN", "hunter2-short")
    monkeypatch.setenv("KENNEL_SECRET_KEY", f"{LONG},hunter2-short")
    monkeypatch.setenv("KENNEL_TOKEN", "hunter2 with spaces")
    monkeypatch.setenv("KENNEL_TIMEZONE", "../../etc/passwd")
    monkeypatch.setenv("KENNEL_LEASE__FENCE_S", "40")
    monkeypatch.setenv("KENNEL_LOG__FORMAT", "xml")
    monkeypatch.setenv("KENNEL_WORKER__TAGS", "ok,not ok")
    monkeypatch.setenv("KENNEL_SERVER", "ftp://kennel")
    monkeypatch.setenv("KENNEL_API__SYNC_WAIT_S", "nan")

    message = refusal(api={"port": 70000})

    for name in (
        "KENNEL_WORKER__SLOTS",
        "KENNEL_DATABASE_URL: must start with postgresql://",
        "KENNEL_BOOTSTRAP_TOKEN: must be 32 to 200",
        "KENNEL_SECRET_KEY: must be one or more keys",
        "KENNEL_TOKEN: must be 8 to 200",
        "KENNEL_TIMEZONE: must be an IANA time zone",
        "KENNEL_LEASE__FENCE_S (40) must be less than KENNEL_LEASE__LEASE_S (30)",
        "KENNEL_LOG__FORMAT: Input should be 'auto', 'json' or 'console', got 'xml'",
        "KENNEL_WORKER__TAGS",
        "KENNEL_SERVER: must start with http://",
        "KENNEL_API__SYNC_WAIT_S",
        "KENNEL_API__PORT",
    ):
        assert name in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KENNEL_DATABASE_URL", "postgresql://u:hunter2@[::1/x"),
        ("KENNEL_DATABASE_URL", "postgresql://u:pass@h:hunter2/x"),
        ("KENNEL_DATABASE_URL", "hunter2:x"),
        ("KENNEL_BOOTSTRAP_TOKEN", "hunter2"),
        ("KENNEL_WORKER__ENROLMENT_TOKEN", "hunter2"),
    ],
)
def test_a_refused_secret_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    message = refusal()

    assert name in message
    assert "hunter2" not in message


def test_neither_text_nor_repr_of_the_settings_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KENNEL_DATABASE_URL", "postgresql://kennel:hunter2@db/kennel")
    for name in ("SECRET_KEY", "BOOTSTRAP_TOKEN", "WORKER__ENROLMENT_TOKEN", "TOKEN"):
        monkeypatch.setenv(f"KENNEL_{name}", LONG)

    settings = load_settings()

    assert "hunter2" not in repr(settings) + str(settings)
    assert LONG not in repr(settings) + str(settings)
    assert {LONG, "hunter2"} <= set(settings.secrets())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KENNEL_LOG_LEVEL", "KENNEL_LOG__LEVEL"),
        ("KENNEL_DATABSE_URL", "KENNEL_DATABASE_URL"),
        ("KENNEL_WORKER__ENROLLMENT_TOKEN", "KENNEL_WORKER__ENROLMENT_TOKEN"),
    ],
)
def test_a_misspelt_variable_is_refused_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "x")

    assert refusal() == f"{name} is no setting: did you mean {meant}?"


def test_an_unknown_name_in_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENNEL_WORKER__COLOUR", "red")

    assert "KENNEL_WORKER__COLOUR" in refusal()


def test_what_a_cluster_names_after_a_service_kennel_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KENNEL_PORT", "tcp://10.0.0.7:8000")
    monkeypatch.setenv("KENNEL_API_PORT", "tcp://10.0.0.7:8000")
    monkeypatch.setenv("KENNEL_API_SERVICE_HOST", "10.0.0.7")
    monkeypatch.setenv("KENNEL_API_PORT_8000_TCP_PROTO", "tcp")

    assert load_settings().api.port == 8000


@given(lease_s=st.floats(0.1, 1000), fence_s=st.floats(0.1, 1000), heartbeat_s=st.floats(0.1, 1000))
def test_the_fence_stands_between_two_heartbeats_and_the_lease(
    lease_s: float, fence_s: float, heartbeat_s: float
) -> None:
    spans = {"lease_s": lease_s, "fence_s": fence_s, "heartbeat_s": heartbeat_s}

    if 2 * heartbeat_s < fence_s < lease_s:
        assert LeaseSettings.model_validate(spans).fence_s == fence_s
    else:
        with pytest.raises(ValidationError, match="KENNEL_LEASE__FENCE_S"):
            LeaseSettings.model_validate(spans)


def test_retry_and_repository_times_hold_together() -> None:
    assert "KENNEL_SCHEDULER__SCM_TIMEOUT_S" in refusal(scheduler={"scm_timeout_s": 61})
    assert "KENNEL_SCHEDULER__RETRY_BASE_S" in refusal(scheduler={"retry_base_s": 301})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "kennel.example"])
def test_local_repositories_are_refused_beyond_loopback(host: str) -> None:
    message = refusal(allow_local_repos=True, api={"host": host})

    assert "KENNEL_ALLOW_LOCAL_REPOS" in message
    assert "KENNEL_API__HOST" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_local_repositories_are_allowed_on_loopback(host: str) -> None:
    assert is_loopback(host)
    assert load_settings(allow_local_repos=True, api={"host": host}).allow_local_repos


def test_folders_follow_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load_settings().data_dir == tmp_path / "kennel"
    assert load_settings().worker.state_dir == tmp_path / "kennel" / "worker"

    monkeypatch.setenv("KENNEL_DATA_DIR", str(tmp_path / "data"))
    assert load_settings().worker.state_dir == tmp_path / "data" / "worker"

    monkeypatch.setenv("KENNEL_WORKER__STATE_DIR", "~/w")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().worker.state_dir == tmp_path / "w"


def test_a_relative_state_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load_settings().data_dir == tmp_path / ".local/state/kennel"


class TestSecretFiles:
    def write(self, path: Path, text: str, mode: int = 0o600) -> Path:
        path.write_text(text)
        path.chmod(mode)
        return path

    def test_a_file_gives_the_secret_without_its_line_end(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = self.write(tmp_path / "token", f"{LONG}\n")
        monkeypatch.setenv("KENNEL_BOOTSTRAP_TOKEN_FILE", str(file))

        token = load_settings().bootstrap_token

        assert token is not None
        assert token.get_secret_value() == LONG

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_file_others_can_reach_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int
    ) -> None:
        file = self.write(tmp_path / "token", LONG, mode)
        monkeypatch.setenv("KENNEL_BOOTSTRAP_TOKEN_FILE", str(file))

        message = refusal()

        assert f"KENNEL_BOOTSTRAP_TOKEN_FILE: {file} is open to group or others" in message
        assert LONG not in message

    @pytest.mark.parametrize(
        ("content", "says"), [(b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * 70_000, "larger")]
    )
    def test_a_file_that_holds_no_secret_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, says: str
    ) -> None:
        file = tmp_path / "token"
        file.write_bytes(content)
        file.chmod(0o600)
        monkeypatch.setenv("KENNEL_BOOTSTRAP_TOKEN_FILE", str(file))

        assert says in refusal()

    def test_what_is_no_file_is_refused_at_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        for name in ("pipe", "absent", "."):
            monkeypatch.setenv("KENNEL_BOOTSTRAP_TOKEN_FILE", str(tmp_path / name))
            assert "KENNEL_BOOTSTRAP_TOKEN_FILE" in refusal()

    def test_a_secret_given_twice_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("KENNEL_TOKEN", LONG)
        monkeypatch.setenv("KENNEL_TOKEN_FILE", str(self.write(tmp_path / "t", LONG)))

        assert "KENNEL_TOKEN and KENNEL_TOKEN_FILE are both set" in refusal()

    def test_credentials_of_the_service_manager_are_read_whatever_their_mode(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        url = "postgresql:///kennel"
        self.write(tmp_path / "kennel_database_url", url, 0o440)
        self.write(tmp_path / "kennel_enrolment_token", LONG, 0o440)
        listen = self.write(tmp_path / "listen", f"{url}?host=/run", 0o440)
        monkeypatch.setenv("KENNEL_LISTEN_DATABASE_URL_FILE", str(listen))

        settings = load_settings()

        assert settings.database_url is not None
        assert settings.database_url.get_secret_value() == url
        assert settings.listen_database_url is not None
        assert settings.listen_database_url.get_secret_value() == f"{url}?host=/run"
        assert settings.worker.enrolment_token is not None

    def test_a_variable_wins_over_a_credential(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.write(tmp_path / "kennel_token", "from-the-credential")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        monkeypatch.setenv("KENNEL_TOKEN", "from-the-variable")

        token = load_settings().client.token

        assert token is not None
        assert token.get_secret_value() == "from-the-variable"

    def test_an_empty_credential_is_refused_by_its_name(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.write(tmp_path / "kennel_secret_key", "\n")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

        assert "credential kennel_secret_key" in refusal()


def test_a_child_gets_the_environment_without_secrets_and_without_the_service_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = {"KENNEL_LOG__LEVEL": "debug", "LANG": "C.UTF-8"}
    not_theirs = {
        "KENNEL_DATABASE_URL": "postgresql:///kennel",
        "KENNEL_SECRET_KEY_FILE": "/etc/kennel/key",
        "KENNEL_TOKEN": LONG,
        "CREDENTIALS_DIRECTORY": "/run/credentials/kennel",
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "1000000",
    }
    for name, value in (ours | not_theirs).items():
        monkeypatch.setenv(name, value)

    environment = child_environment({"KENNEL_WORKER__SLOTS": "2", "LANG": "C"})

    assert ours | {"KENNEL_WORKER__SLOTS": "2", "LANG": "C"} == {
        name: environment[name] for name in (*ours, "KENNEL_WORKER__SLOTS")
    }
    assert not environment.keys() & not_theirs.keys()


class TestServiceManager:
    def test_nothing_is_there_outside_a_service(self) -> None:
        found = read_service_manager()

        assert (found.notify_socket, found.watchdog_s, found.journal_stream) == (None, None, None)

    def test_a_watchdog_meant_for_another_process_is_not_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        assert read_service_manager().watchdog_s == 30.0

        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        assert read_service_manager().watchdog_s == 30.0

        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
        assert read_service_manager().watchdog_s is None

    @pytest.mark.parametrize("usec", ["", "0", "-5", "soon", "٣"])
    def test_a_senseless_watchdog_time_is_no_watchdog(
        self, monkeypatch: pytest.MonkeyPatch, usec: str
    ) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)

        assert read_service_manager().watchdog_s is None
