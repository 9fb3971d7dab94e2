"""`worldsim serve-backbone`: lend a frozen video model over HTTP, as a black box to be adapted elsewhere."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import Tensor

from worldsim.backbones import video
from worldsim.backbones.video import wire
from worldsim.protocols import FrozenDenoiser

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Which model, and who may ask."""

    backbone: video.Config = field(default_factory=video.Config)
    host: str = "127.0.0.1"
    """The address to listen on. There is no password: others than this machine may ask only with --open-to-all."""
    port: int = 8765
    """0 takes any that is free."""
    most_bytes: int = 2**30
    """Of a request; a larger one is refused before it is read."""
    open_to_all: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot be, or that would open a port to others unasked."""
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}, it must be from 0 to 65535")
        if self.most_bytes < 1:
            raise ValueError(f"most_bytes is {self.most_bytes}, it must be 1 or more")
        if not (_is_loopback(self.host) or self.open_to_all):
            raise ValueError(
                f"host is {self.host}, which others can reach, and whoever reaches it may use the model: keep "
                "127.0.0.1 (and a tunnel), or say --open-to-all"
            )


def run(config: Config) -> None:
    """Serve until Ctrl-C."""
    server = make_server(config, video.build(config.backbone))
    log.info("serving %s on http://%s:%d", config.backbone.name, config.host, server.server_address[1])
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make_server(config: Config, denoiser: FrozenDenoiser) -> ThreadingHTTPServer:
    """A server of this model, not yet serving; one request at a time is computed. Raises OSError for a port in use."""
    said = wire.describe(denoiser.spec, denoiser.schedule, denoiser.fingerprint).encode()
    answers, busy = _answers(denoiser), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            if self.path == "/spec":
                self._send(200, said, "application/json")
            else:
                self._refuse(404, f"there is no {self.path}; GET /spec")

        def do_POST(self) -> None:
            answer = answers.get(self.path.removeprefix("/"))
            if answer is None:
                return self._refuse(404, f"there is no {self.path}; POST to {', '.join(answers)}")
            length = self.headers.get("Content-Length", "")
            if not length.isdigit():
                return self._refuse(411, "a Content-Length is needed")
            if int(length) > config.most_bytes:
                self._pass_over(min(int(length), 16 * config.most_bytes))
                return self._refuse(413, f"{length} bytes are sent, {config.most_bytes} are the most (--most-bytes)")
            begin = time.perf_counter()
            try:
                sent = wire.unpack(self.rfile.read(int(length)))
                given = {name: value.to(config.backbone.device) for name, value in sent.items()}
                with busy, torch.no_grad():
                    found = wire.pack(answer(given))
            except ValueError as error:
                return self._refuse(400, str(error))
            except (RuntimeError, MemoryError) as error:
                log.exception("%s failed", self.path)
                full = isinstance(error, MemoryError | torch.OutOfMemoryError)
                return self._refuse(507 if full else 500, f"{type(error).__name__}: {str(error)[:500]}")
            log.info(
                "%s %s: %.1f MiB in, %.1f MiB out, %.2f s",
                *(self.client_address[0], self.path, int(length) / 2**20, len(found) / 2**20),
                time.perf_counter() - begin,
            )
            return self._send(200, found, "application/octet-stream")

        def _pass_over(self, length: int) -> None:
            """Read and forget, so that whoever sends hears why it is refused; in parts, so that nothing is kept."""
            while length > 0 and (part := self.rfile.read(min(length, 2**20))):
                length -= len(part)

        def _refuse(self, code: int, why: str) -> None:
            log.warning("%s %s: refused (%d): %s", self.client_address[0], self.path, code, why)
            self.close_connection = True
            self._send(code, why.encode(), "text/plain; charset=utf-8")

        def _send(self, code: int, body: bytes, kind: str) -> None:
            self.send_response_only(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        daemon_threads = True

    return Server((config.host, config.port), Handler)


def _answers(denoiser: FrozenDenoiser) -> dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """By path, what is answered to named tensors."""

    def encode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": denoiser.encode(wire.needed(given, "video"))}

    def decode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"video": denoiser.decode(wire.needed(given, "latents"))}

    def condition(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first, frames = wire.needed(given, "first"), int(wire.needed(given, "frames"))
        return wire.of_condition(denoiser.condition(first, frames))

    def predict(given: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy, sigma = wire.needed(given, wire.NOISY), wire.needed(given, wire.SIGMA)
        return {"x0": denoiser.x0(noisy, sigma, wire.to_condition(given))}

    return {"encode": encode, "decode": decode, "condition": condition, "predict": predict}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
