"""What a service answers is not trusted: garbage, wrong shapes, silence and answers without end are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest
import torch
from torch import Tensor

from tests.boxes import clip, tiny
from worldsim.backbones.video import black_box, wire
from worldsim.backbones.video.denoiser import VideoDenoiser


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> VideoDenoiser:
    return tiny(tmp_path_factory.mktemp("box"))


Reply = Callable[[str], tuple[int, bytes]]


@pytest.fixture
def strange(denoiser: VideoDenoiser) -> Iterator[Callable[[Reply], str]]:
    """Services that answer what a test says, and first describe themselves as the model."""
    servers: list[HTTPServer] = []
    said = wire.describe(denoiser.spec, denoiser.schedule, denoiser.fingerprint).encode()

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, said)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(*reply(self.path))

            def answer(self, code: int, body: bytes) -> None:
                self.send_response_only(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    return  # who asked is gone

            def log_message(self, format: str, *args: object) -> None:
                return

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "answered garbage"),
        (wire.pack({"video": torch.zeros(1)}), "'latents' is missing"),
        (wire.pack({"latents": torch.zeros(1, 1, 16, 4, 4)}), r"shape \[1, 1, 16, 4, 4\], \[2, 2, 16, 4, 4\] was due"),
        (wire.pack({"latents": torch.full((2, 2, 16, 4, 4), torch.nan)}), "not finite"),
    ],
)
def test_a_strange_answer_is_told(strange: Callable[[Reply], str], body: bytes, told: str) -> None:
    box = black_box.connect(black_box.Config(strange(lambda _: (200, body))))
    with pytest.raises(ValueError, match=told):
        box.encode(clip())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": torch.zeros(1, 2, 3, 1, 1), "clean_mask": torch.zeros(1, 2)}, r"\[2, 2, 16, 4, 4\] was due"),
        ({"clean_mask": torch.zeros(2, 3)}, r"\[2, 2\] was due"),
        ({"input.0": torch.full((2, 1), torch.nan)}, "'input.0' holds numbers that are not finite"),
        ({"input.0": torch.zeros(3, 1)}, "2 rows were due"),
        ({"input.1": torch.zeros(2, 1)}, "they must be input.0"),
    ],
)
def test_a_strange_condition_is_told(strange: Callable[[Reply], str], change: dict[str, Tensor], message: str) -> None:
    sound = {"clean": torch.zeros(2, 2, 16, 4, 4), "clean_mask": torch.zeros(2, 2)}
    box = black_box.connect(black_box.Config(strange(lambda _: (200, wire.pack({**sound, **change})))))
    with pytest.raises(ValueError, match=message):
        box.condition(clip()[:, :1], 5)


def test_an_answer_without_end_is_cut_off(strange: Callable[[Reply], str]) -> None:
    box = black_box.connect(black_box.Config(strange(lambda _: (200, bytes(2**16))), most_bytes=2**15))
    with pytest.raises(ValueError, match="more than 32768 bytes"):
        box.encode(clip())


def test_the_timeout_is_that_of_a_whole_answer(denoiser: VideoDenoiser) -> None:
    said = wire.describe(denoiser.spec, denoiser.schedule, "x").encode()

    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            try:
                for i in range(len(said)):
                    self.wfile.write(said[i : i + 1])
                    time.sleep(0.05)
            except OSError:
                return  # who asked is gone

    server = HTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.5 s"):
        black_box.connect(black_box.Config(f"http://127.0.0.1:{server.server_address[1]}", timeout=0.5, tries=1))
    assert time.monotonic() - begin < 0.04 * len(said)
    server.shutdown()
    server.server_close()


def test_who_does_not_answer_is_asked_again_and_then_told(
    strange: Callable[[Reply], str], caplog: pytest.LogCaptureFixture
) -> None:
    def slow(_: str) -> tuple[int, bytes]:
        time.sleep(0.5)
        return 200, b""

    box = black_box.connect(black_box.Config(strange(slow), timeout=0.1, tries=2, pause=0.01))
    with pytest.raises(ConnectionError, match=r"in 2 tries: no answer within 0\.1 s"):
        box.encode(clip())
    assert "trying again" in caplog.text
    asked: list[str] = []

    def failing_once(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return (200, wire.pack({"latents": torch.zeros(2, 2, 16, 4, 4)})) if len(asked) > 1 else (500, b"oops")

    box = black_box.connect(black_box.Config(strange(failing_once), pause=0.01))
    assert box.encode(clip()).shape == (2, 2, 16, 4, 4) and asked == ["/encode"] * 2


def test_a_service_that_stalls_while_it_says_its_error_is_asked_again(
    denoiser: VideoDenoiser, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(500)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"half")
            go_on.wait(10)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(
        ConnectionError, match=rf"{address}/spec did not answer in 2 tries: it failed \(500\): half\. Is"
    ):
        black_box.connect(black_box.Config(address, timeout=0.5, tries=2, pause=0.01))
    go_on.set()
    server.shutdown()
    server.server_close()
    assert "trying again" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_an_answer_of_strange_numbers_is_told(strange: Callable[[Reply], str], dtype: torch.dtype) -> None:
    body = wire.pack({"latents": torch.ones(2, 2, 16, 4, 4).to(dtype)})
    box = black_box.connect(black_box.Config(strange(lambda _: (200, body))))
    with pytest.raises(ValueError, match=f"'latents' holds {dtype}; float16, "):
        box.encode(clip())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///etc/passwd", "must begin with http"),
        ("http://127.0.0.1:abc", "abc"),
        ("http://127.0.0.1:70000", "0-65535"),
        ("http://127.0.0.1:0", "port is 0"),
        ("http://", "must name a host"),
        ("http://:8765", "must name a host"),
        ("http://me@there", "and no user"),
        ("http://[::1", "IPv6"),
        ("http://a..b", "label"),
        ("http://there/a model", "spaces or letters"),
        ("http://there/mod\u00e8le", "spaces or letters"),
        ("http://there/\n", "spaces or letters"),
        ("http://there/?model=1", "must end with its path"),
        ("http://there#1", "must end with its path"),
    ],
)
def test_an_address_that_cannot_be_is_told_before_it_is_asked(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"url is .*{told}"):
        black_box.Config(url)


@pytest.mark.parametrize("url", ["http://[::1]:8765", "https://there.example/models/one/", "http://127.0.0.1"])
def test_an_address_that_can_be_is_taken(url: str) -> None:
    assert black_box.Config(url).url == url
