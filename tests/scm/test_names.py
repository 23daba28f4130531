"""What is accepted as URL, branch and revision; git itself is the oracle for branches."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.errors import InvalidField, ScmError
from core.domain.outcomes import Reason
from core.domain.scm import (
    ScmCredentials,
    Transport,
    as_field,
    check_branch,
    check_revision,
    parse_scm_url,
    redact,
)


@pytest.mark.parametrize(
    ("url", "transport", "host", "port", "path"),
    [
        ("https://Example.org/a/b.git", Transport.HTTPS, "example.org", None, "/a/b.git"),
        ("http://127.0.0.1:8080/r", Transport.HTTP, "127.0.0.1", 8080, "/r"),
        ("https://[::1]:8443/r", Transport.HTTPS, "::1", 8443, "/r"),
        ("ssh://git@example.org:22/a/b", Transport.SSH, "example.org", 22, "/a/b"),
        ("ssh://example.org/~me/b", Transport.SSH, "example.org", None, "/~me/b"),
        ("git@example.org:a/b.git", Transport.SSH, "example.org", None, "a/b.git"),
        ("https://example.org/a%20b/%E4%BB%93", Transport.HTTPS, "example.org", None, None),
        ("https://example.org/仓库", Transport.HTTPS, "example.org", None, "/仓库"),
    ],
)
def test_ordinary_urls_are_accepted(
    url: str, transport: Transport, host: str, port: int | None, path: str | None
) -> None:
    parsed = parse_scm_url(url)

    assert (parsed.url, parsed.transport, parsed.host, parsed.port) == (url, transport, host, port)
    assert path is None or parsed.path == path
    assert not parsed.is_local


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-",
        "--upload-pack=touch PWN;",
        "--upload-pack=touch",
        "ext::sh -c touch% PWN",
        "ext::sh",
        "fd::17",
        "ssh://-oProxyCommand=touch/x",
        "ssh://git@-oProxyCommand=touch/x",
        "ssh://-oProxyCommand=x@example.org/y",
        "git@-oProxyCommand=touch:x",
        "-oProxyCommand=x@example.org:y",
        "git@example.org:-x",
        "git@example.org:",
        "git@example.org:/",
        "example.org:a/b",
        "C:\\repo",
        "git://example.org/x",
        "ftp://example.org/x",
        "svn://example.org/x",
        "HTTPS+git://example.org/x",
        "https://",
        "https:///x",
        "https://example.org",
        "https://example.org/",
        "https://user:secret@example.org/x",
        "https://ghp_0123456789@example.org/x",
        "https://:@example.org/x",
        "ssh://git:secret@example.org/x",
        "https://example.org:0/x",
        "https://example.org:99999/x",
        "https://example.org:abc/x",
        "https://example.org:/x",
        "https://exa mple.org/x",
        "https://example.org/x y",
        "https://example.org/x\n",
        "https://example.org/x\r\nHost: y",
        "https://example.org/\x00",
        "https://example.org/%0aHost",
        "https://example.org/%00",
        "https://example.org/\u2028",
        "https://example.org/\ud800",
        "https://example.org/x?token=1",
        "https://example.org/x#main",
        "https://example.org\\@evil.example/x",
        "https://example.org@evil.example/x",
        "https://[::1/x",
        "https://[v1.x]/x",
        "https://exämple.org/x",
        "https://" + "a" * 2000 + "/x",
        "/etc",
        "/srv/repo.git",
        "file:///srv/repo.git",
        "./repo",
        "../repo",
        "repo",
        "~/repo",
    ],
)
def test_dangerous_and_unclear_urls_are_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ScmError) as caught:
        parse_scm_url(url)

    assert caught.value.reason == Reason.SCM_REFUSED
    assert not caught.value.is_transient
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["/srv/my repo", "file:///srv/repo", "file://localhost/srv/repo"])
def test_local_repositories_are_accepted_only_where_allowed(url: str) -> None:
    assert parse_scm_url(url, allow_local=True).is_local
    with pytest.raises(ScmError, match="not accepted here"):
        parse_scm_url(url)


@pytest.mark.parametrize(
    "url", ["repo", "./repo", "//host/share", "/a\nb", "file://host/x", "-x", "file:repo"]
)
def test_local_repositories_are_absolute_and_printable(url: str) -> None:
    with pytest.raises(ScmError):
        parse_scm_url(url, allow_local=True)


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_is_accepted_or_refused_but_never_breaks(text: str) -> None:
    for url in (text, "https://" + text, "ssh://" + text, "git@" + text):
        try:
            parsed = parse_scm_url(url)
        except ScmError:
            continue
        assert not parsed.url.startswith("-")
        assert not any(char.isspace() or ord(char) < 32 for char in parsed.url)
        assert parsed.host
        assert not parsed.host.startswith("-")


BRANCHES = [
    "main", "feature/x", "功能/一", "a.b", "a@b", "a{b", "-", "-x", "--upload-pack=x", "HEAD", "@",
    "a..b", "a b", "a\tb", "a\nb", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a@{1}", "/a",
    "a/", "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a/b.lock", "a\x7f", "refs/heads/a",
    "{", "a]", "a!", "a'b", 'a"b', "a;b", "a$(x)", "a`b`", "a|b", "a&b", "%s", "é", "..", ".",
]  # fmt: skip


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_are_judged_as_git_judges_them(name: str) -> None:
    done = subprocess.run(
        ["git", "check-ref-format", "--branch", name], capture_output=True, check=False
    )
    # `--branch` expands @{-1}, which none of these is.
    expected = done.returncode == 0 and name not in {"HEAD", "@"}

    assert is_accepted(name) is expected


@given(st.text(alphabet="aZ0./-_@{}~^:?*[\\ é\t\x7f", min_size=1, max_size=8))
def test_any_name_is_judged_as_git_judges_it(name: str) -> None:
    if name.startswith("-") or name in {"@", "HEAD"}:  # options, and git's own short forms
        assert not is_accepted(name)
        return
    done = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False)

    assert is_accepted(name) is (done.returncode == 0)


def is_accepted(name: str) -> bool:
    try:
        check_branch(name)
    except ScmError:
        return False
    return True


@pytest.mark.parametrize("name", ["", "a" * 256, "a\x00b", "a\ud800b"])
def test_branches_git_cannot_even_be_asked_about_are_refused(name: str) -> None:
    assert not is_accepted(name)


def test_revisions_are_full_commit_ids() -> None:
    assert check_revision("AB" * 20) == "ab" * 20
    assert check_revision("0" * 64) == "0" * 64
    for wrong in (
        "",
        "abc1234",
        "g" * 40,
        "a" * 41,
        "HEAD",
        "-" + "a" * 39,
        "a" * 40 + "\n",
        "٠" * 40,
    ):
        with pytest.raises(ScmError, match="40 or 64"):
            check_revision(wrong)


def test_a_refusal_becomes_the_error_of_a_field() -> None:
    with pytest.raises(InvalidField) as caught, as_field("scm_url"):
        parse_scm_url("/etc/passwd")

    assert caught.value.field == "scm_url"
    assert "local repositories are not accepted" in caught.value.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x", "https://…@h/x"),
        (
            "fatal: unable to access 'http://tok@h:1/': x",
            "fatal: unable to access 'http://…@h:1/': x",
        ),
        ("https://a@b@h/x ssh://g:w@i/y", "https://…@h/x ssh://…@i/y"),
        ("https://h/x@y", "https://h/x@y"),
        ("git@h:x", "git@h:x"),
    ],
)
def test_userinfo_is_redacted_wherever_a_url_stands(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_credentials_are_never_shown_and_malformed_ones_are_refused() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"
    shown = repr(ScmCredentials("user", "secret", key))

    assert "secret" not in shown
    assert "abc" not in shown
    for wrong in ({"password": "a\nb"}, {"username": "a\0"}, {"private_key": "no key"}):
        with pytest.raises(ScmError) as caught:
            ScmCredentials(**wrong)
        assert caught.value.reason == Reason.SCM_REFUSED
