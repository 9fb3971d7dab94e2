"""How the service of a video model reads requests: with care for their heads, not for ever, and each is logged."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worldsim.backbones.video import wire
from worldsim.backbones.video.black_box import BlackBox
from worldsim.diffusion import RF
from worldsim.jobs import serve_backbone
from worldsim.protocols import Condition, DenoiserSpec

MOST = 2**20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    spec = DenoiserSpec(4, 8, 8, 1, False, "flow", "none", False, 1)

    def encode(video: Tensor) -> Tensor:
        return torch.zeros(*video.shape[:2], 4, video.shape[3] // 8, video.shape[4] // 8)

    def predict(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return noisy

    box = BlackBox(spec, RF(), "x", encode, lambda latents: latents, predict)
    server = serve_backbone.make_server(serve_backbone.Config(port=0, most_bytes=MOST), box)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The one line of the service, which it writes when it has answered."""
    for _ in range(1000):
        if lines := [r.getMessage() for r in caplog.records if " bytes in, " in r.getMessage()]:
            assert len(lines) == 1
            return lines[0]
        time.sleep(0.01)
    raise AssertionError("nothing was logged")


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("GET /spec HTTP/1.1\r\nHost: evil.example\r\n", 403),
        ("POST /encode HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n", 403),
        ("GET /spec HTTP/1.1\r\nHost: [::1]:99\r\n", 200),
        ("GET /spec HTTP/1.1\r\nHost: [::1\r\n", 400),
        ("POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: \u00b2\r\n", 411),
        ("POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + "9" * 5000 + "\r\n", 400),
        ("PUT /encode HTTP/1.1\r\nHost: localhost\r\n", 501),
        ("GET /spec twice HTTP/1.1\r\n", 400),
        ("GET /" + "s" * 2**17 + " HTTP/1.1\r\n", 414),
    ],
)
def test_heads_of_requests_are_read_with_care(
    port: int, caplog: pytest.LogCaptureFixture, head: str, code: int
) -> None:
    """A page of another site, which a browser here shows, cannot ask; a length is written in plain digits."""
    caplog.set_level("INFO", "worldsim")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as one:
        with contextlib.suppress(ConnectionError):  # of the longest, the rest is not read
            one.sendall(head.encode("latin-1") + b"Connection: close\r\n\r\n")
            answer = b"".join(iter(lambda: one.recv(2**16), b""))
            assert answer.split()[1] == str(code).encode()
    line = logged(caplog)
    assert f": {code}" in line and " 0 bytes in, " in line and len(line) < 1000


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "spec", None, 200),
        ("GET", "pretraining", None, 200),
        ("GET", "film", None, 404),
        ("POST", "encode", wire.pack({"video": torch.zeros(1, 2, 3, 32, 32)}), 200),
        ("POST", "encode", wire.pack({"video": torch.zeros(0, 2, 3, 32, 32)}), 400),
        ("POST", "encode", b"hello", 400),
        ("POST", "encode", bytes(MOST + 1), 413),
    ],
)
def test_every_request_is_logged_with_its_sizes_and_time(
    port: int, caplog: pytest.LogCaptureFixture, method: str, path: str, body: bytes | None, code: int
) -> None:
    caplog.set_level("INFO", "worldsim")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as one:
            found, answer = one.status, one.read()
    except urllib.error.HTTPError as error:
        found, answer = error.code, error.read()
    assert found == code
    line = logged(caplog)
    assert line.startswith(f"127.0.0.1 '{method} /{path} HTTP/1.1': {code}") and line.endswith(" s")
    assert f"; {len(body or b'')} bytes in, {len(answer)} out, " in line


@pytest.mark.parametrize(("length", "said"), [(5000, "not answered"), (MOST + 1, "413, ")])
def test_a_body_that_drips_is_not_waited_for(
    port: int, length: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it would be computed or is passed over."""
    caplog.set_level("INFO", "worldsim")
    monkeypatch.setattr(serve_backbone, "SILENT", 0.3)
    done = threading.Event()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as one:
        one.sendall(f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not done.wait(0.02):
                    one.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert f"HTTP/1.1': {said}" in logged(caplog)
        finally:
            done.set()
            dripping.join()
