"""nginx as Debian ships it, with the configuration of deploy/nginx."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import ROOT, eventually, free_port

EXAMPLE = ROOT / "deploy" / "nginx" / "kennel.conf"

#: What the distribution's own nginx.conf is around the example.
_MAIN = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/kennel.conf;
}}
"""


@dataclass
class Proxy:
    """A running nginx."""

    folder: Path
    port: int
    http_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def log(self) -> str:
        return (self.folder / "error.log").read_text(errors="replace")


def filled_in(proxy: Proxy, ports: Sequence[int]) -> str:
    """Return the example with the addresses of this run; nothing else is changed."""
    text = EXAMPLE.read_text()
    for written, meant in {
        "server 127.0.0.1:8001": f"server 127.0.0.1:{ports[0]}",
        "server 127.0.0.1:8002": f"server 127.0.0.1:{ports[1]}",
        "listen 80;": f"listen 127.0.0.1:{proxy.http_port};",
        "listen 443 ssl": f"listen 127.0.0.1:{proxy.port} ssl",
        "/etc/ssl/kennel/fullchain.pem": str(proxy.certificate),
        "/etc/ssl/kennel/privkey.pem": str(proxy.folder / "key.pem"),
    }.items():
        assert text.count(written) == 1, written
        text = text.replace(written, meant)
    return text


@asynccontextmanager
async def new_proxy(ports: Sequence[int]) -> AsyncIterator[Proxy]:
    """Lend an nginx before the api processes at *ports*."""
    folder = Path(tempfile.mkdtemp(prefix="kennel-nginx-"))
    proxy = Proxy(folder, free_port(), free_port())
    try:
        # nginx's own processes run as another user, who writes only below here.
        folder.chmod(0o711)
        await asyncio.to_thread(_make_certificate, folder)
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
        (folder / "kennel.conf").write_text(filled_in(proxy, ports))
        with (folder / "output.log").open("wb") as output:
            proxy.process = subprocess.Popen(
                ["/usr/sbin/nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        async def answers() -> bool:
            assert proxy.process is not None
            assert proxy.process.poll() is None, (folder / "output.log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(answers, within_s=30, what="nginx answers")
        yield proxy
    finally:
        if proxy.process is not None and proxy.process.poll() is None:
            proxy.process.terminate()
            try:
                proxy.process.wait(10)
            except subprocess.TimeoutExpired:
                proxy.process.kill()
        shutil.rmtree(folder)


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
