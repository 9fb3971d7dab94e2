"""`worldsim serve-backbone`: lend a frozen video model over HTTP, as a black box to be adapted elsewhere."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import torch

from worldsim.backbones import video
from worldsim.backbones.video import wire
from worldsim.backbones.video.black_box import NOTHING, is_loopback
from worldsim.jobs import devices
from worldsim.jobs.seen_films import told_in
from worldsim.jobs.serve_backbone_answers import Answer, Bounds, make_answers
from worldsim.pretrained import PRETRAINING
from worldsim.protocols import FrozenDenoiser

log = logging.getLogger(__name__)
SILENT = 20.0  # seconds that a caller may say nothing
SLOWEST = 2**16  # bytes a second of a body, at least
DIGITS = 18  # of a length that can be


@dataclass(frozen=True)
class Config:
    """Which model, and who may ask."""

    backbone: video.Config = field(default_factory=video.Config)
    host: str = "127.0.0.1"
    """The address to listen on. There is no password: others than this machine may ask only with --open-to-all."""
    port: int = 8765
    """0 takes any that is free."""
    most_bytes: int = 2**30
    """Of a request, which is refused before it is read if it is larger, and of an answer, before it is computed."""
    most_frames: int = 1024
    """Pixel frames of a clip."""
    most_waiting: int = 8
    """Requests that are kept at a time, the one that is computed among them; others are told to come later."""
    open_to_all: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot be, or that would open a port to others unasked."""
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}, it must be from 0 to 65535")
        for name in ("most_bytes", "most_frames", "most_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not (is_loopback(self.host) or self.open_to_all):
            raise ValueError(
                f"host is {self.host}, which others can reach, and whoever reaches it may use the model: keep "
                "127.0.0.1 (and a tunnel), or say --open-to-all"
            )


def run(config: Config) -> None:
    """Serve until Ctrl-C."""
    device = str(devices.find(config.backbone.device))
    _check_port(config)
    asked = replace(config, backbone=replace(config.backbone, device=device))
    server = make_server(asked, video.build(asked.backbone))
    log.info("serving %s on http://%s:%d", config.backbone.name, config.host, server.server_address[1])
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make_server(config: Config, denoiser: FrozenDenoiser) -> ThreadingHTTPServer:
    """A server of this model, not yet serving; one request at a time is computed. Raises OSError for a port in use."""
    told = {
        "/spec": wire.describe(denoiser.spec, denoiser.schedule, denoiser.fingerprint).encode(),
        "/pretraining": _pretraining(config.backbone.name),
    }
    bounds = Bounds(config.most_bytes, config.most_frames)
    answers, busy = make_answers(denoiser, config.backbone.device, bounds), threading.Lock()
    places = threading.BoundedSemaphore(config.most_waiting)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SILENT

        def do_GET(self) -> None:
            self._logged(self._get)

        def do_POST(self) -> None:
            self._logged(self._post)

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """What the server itself refuses: other methods, and heads that are none."""
            self._logged(lambda: self._refuse(code, message or "this is no request"))

        def _logged(self, answer: Callable[[], None]) -> None:
            """Answer, and log it: the one place where requests are."""
            begin, self.taken, self.given, self.said = time.perf_counter(), 0, 0, "not answered"
            try:
                answer()
            finally:
                log.log(
                    logging.INFO if self.said == "200" else logging.WARNING,
                    "%s %r: %s; %d bytes in, %d out, %.2f s",
                    *(self.client_address[0], self.requestline[:200], self.said),
                    *(self.taken, self.given, time.perf_counter() - begin),
                )

        def _get(self) -> None:
            if not self._is_for_here():
                return None
            if self.path in told:
                return self._send(200, told[self.path], "application/json")
            return self._refuse(404, f"there is no {self.path}; GET {' or '.join(told)}")

        def _post(self) -> None:
            if not self._is_for_here():
                return None
            answer = answers.get(self.path.removeprefix("/"))
            if answer is None:
                return self._refuse(404, f"there is no {self.path}; POST to {', '.join(answers)}")
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                return self._refuse(411, "a Content-Length is needed")
            if len(length) > DIGITS:
                return self._refuse(400, f"the Content-Length has {len(length)} digits, {DIGITS} are the most")
            if int(length) > config.most_bytes:
                self._pass_over(min(int(length), 16 * config.most_bytes))
                return self._refuse(413, f"{length} bytes are sent, {config.most_bytes} are the most (--most-bytes)")
            if int(length):
                cast(io.BufferedReader, self.rfile).peek(1)  # who sends nothing takes no place
            if not places.acquire(blocking=False):
                self._pass_over(int(length))
                return self._refuse(503, f"{config.most_waiting} requests wait already (--most-waiting): come later")
            try:
                return self._computed(answer, int(length))
            finally:
                places.release()

        def _computed(self, answer: Answer, length: int) -> None:
            try:
                sent = wire.unpack(b"".join(self._parts(length)))
                given = {name: value.to(config.backbone.device) for name, value in sent.items()}
                with busy, torch.no_grad():
                    found = wire.pack(answer(given))
            except (ConnectionError, TimeoutError):
                raise  # nobody is there to be answered
            except ValueError as error:
                return self._refuse(400, str(error))
            except Exception as error:  # whoever asked is told, and others are served on
                log.exception("%s failed", self.path)
                full = isinstance(error, MemoryError | torch.OutOfMemoryError)
                return self._refuse(507 if full else 500, f"{type(error).__name__}: {str(error)[:500]}")
            return self._send(200, found, "application/octet-stream")

        def _is_for_here(self) -> bool:
            """Whether the request names this machine: a page of another site may not ask through a browser here."""
            host = self.headers.get("Host", "")
            try:
                named = urllib.parse.urlsplit(f"//{host}").hostname or ""
            except ValueError as error:
                self._refuse(400, f"the Host is {host!r}, which names none ({error})")
                return False
            if config.open_to_all or named == config.host or is_loopback(named):
                return True
            self._refuse(403, f"the request is for '{named}', and only this machine may ask (--open-to-all)")
            return False

        def _parts(self, length: int) -> Iterator[bytes]:
            """The body in parts. Raises TimeoutError for one that drips: it holds a place."""
            began = time.monotonic()
            while self.taken < length and (part := self.rfile.read1(min(length - self.taken, 2**20))):
                self.taken += len(part)
                yield part
                if time.monotonic() - began > SILENT + self.taken / SLOWEST:
                    raise TimeoutError(f"{self.taken} of {length} bytes came in {time.monotonic() - began:.0f} s")

        def _pass_over(self, length: int) -> None:
            """Read and forget, so that whoever sends hears why it is refused; in parts, so that nothing is kept."""
            with contextlib.suppress(TimeoutError):
                for _ in self._parts(length):
                    pass

        def _refuse(self, code: int, why: str) -> None:
            self.close_connection = True
            self._send(code, why.encode(errors="replace"), "text/plain; charset=utf-8")
            self.said = f"{code}, {why!r}"

        def _send(self, code: int, body: bytes, kind: str) -> None:
            self.send_response_only(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.said, self.given = str(code), len(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A caller that hangs up is no defect of this service."""
            error = sys.exc_info()[1]
            if isinstance(error, ConnectionError):
                log.info("%s: hung up (%s)", client_address[0], error)
            else:
                super().handle_error(request, client_address)

    return Server((config.host, config.port), Handler)


def _check_port(config: Config) -> None:
    """Raise OSError, before a model is loaded, for an address that cannot be listened on."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise OSError(
                f"cannot listen on {config.host}, port {config.port} ({error.strerror}): give another --port, or 0 for "
                "any that is free"
            ) from error


def _pretraining(name: str) -> bytes:
    """What a model says of its training."""
    folder = told_in(name)
    return NOTHING.encode() if folder is None else (folder / PRETRAINING).read_bytes()
