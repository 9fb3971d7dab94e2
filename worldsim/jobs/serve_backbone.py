"""`worldsim serve-backbone`: lend a frozen video model over HTTP, as a black box to be adapted elsewhere."""

from __future__ import annotations

import functools
import io
import logging
import math
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import torch
from torch import Tensor

from worldsim.backbones import video
from worldsim.backbones.video import wire
from worldsim.backbones.video.black_box import NOTHING, is_loopback
from worldsim.backbones.video.denoiser import check_size, check_video
from worldsim.jobs import devices
from worldsim.jobs.seen_films import told_in
from worldsim.pretrained import PRETRAINING
from worldsim.protocols import DenoiserSpec, FrozenDenoiser

log = logging.getLogger(__name__)
SILENT = 20.0  # seconds that a caller may say nothing
SLOWEST = 2**16  # bytes a second of a body, at least
Answer = Callable[[dict[str, Tensor]], dict[str, Tensor]]


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
    answers, busy = _answers(config, denoiser), threading.Lock()
    places = threading.BoundedSemaphore(config.most_waiting)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SILENT

        def do_GET(self) -> None:
            if not self._is_for_here():
                return None
            if self.path in told:
                return self._send(200, told[self.path], "application/json")
            return self._refuse(404, f"there is no {self.path}; GET {' or '.join(told)}")

        def do_POST(self) -> None:
            if not self._is_for_here():
                return None
            answer = answers.get(self.path.removeprefix("/"))
            if answer is None:
                return self._refuse(404, f"there is no {self.path}; POST to {', '.join(answers)}")
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                return self._refuse(411, "a Content-Length is needed")
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
            begin = time.perf_counter()
            try:
                sent = wire.unpack(self._received(length))
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
            log.info(
                "%s %s: %.1f MiB in, %.1f MiB out, %.2f s",
                *(self.client_address[0], self.path, length / 2**20, len(found) / 2**20),
                time.perf_counter() - begin,
            )
            return self._send(200, found, "application/octet-stream")

        def _is_for_here(self) -> bool:
            """Whether the request names this machine: a page of another site may not ask through a browser here."""
            named = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if config.open_to_all or named == config.host or is_loopback(named):
                return True
            self._refuse(403, f"the request is for '{named}', and only this machine may ask (--open-to-all)")
            return False

        def _received(self, length: int) -> bytes:
            """The body. Raises TimeoutError for one that drips: it holds a place."""
            parts, got, began = [], 0, time.monotonic()
            while got < length and (part := self.rfile.read1(min(length - got, 2**20))):
                parts.append(part)
                got += len(part)
                if time.monotonic() - began > SILENT + got / SLOWEST:
                    raise TimeoutError(f"{got} of {length} bytes came in {time.monotonic() - began:.0f} s")
            return b"".join(parts)

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

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A caller that hangs up is no defect of this service."""
            error = sys.exc_info()[1]
            if isinstance(error, ConnectionError):
                log.info("%s: hung up (%s)", client_address[0], error)
            else:
                super().handle_error(request, client_address)

    return Server((config.host, config.port), Handler)


def _answers(config: Config, denoiser: FrozenDenoiser) -> dict[str, Answer]:
    """By path, what is answered to named tensors."""

    spec = denoiser.spec

    def encode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        sent = wire.needed(given, "video")
        check_video(spec, sent)
        _check_count(config, sent.shape[1])
        return {"latents": denoiser.encode(sent)}

    def decode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        sent = _latents(config, spec, given, "latents")
        height, width = (side * spec.stride for side in sent.shape[3:])
        _check_answer(config, (len(sent), _pixel_frames(spec, sent.shape[1]), 3, height, width))
        return {"video": denoiser.decode(sent)}

    def condition(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first, frames = wire.needed(given, "first"), wire.needed(given, "frames")
        if frames.numel() != 1 or frames.is_floating_point():
            raise ValueError(f"frames has shape {list(frames.shape)} and type {frames.dtype}: give one whole number")
        if first.ndim != 5 or first.shape[2] != 3:
            raise ValueError(f"the first frames have shape {list(first.shape)}; give [B, K, 3, Y, X] in [-1, 1]")
        _check_count(config, int(frames))
        rows, _, _, height, width = first.shape
        count = check_size(spec, int(frames), height, width)
        shape = (rows, count, spec.channels, height // spec.stride, width // spec.stride)
        _check_answer(config, shape)
        return wire.of_condition(denoiser.condition(first, int(frames)))

    def predict(given: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy = _latents(config, spec, given, wire.NOISY)
        shape = tuple(noisy.shape)
        sigma = wire.checked(wire.needed(given, wire.SIGMA), shape[:2], wire.SIGMA)
        if not bool((sigma >= 0).all()):
            raise ValueError("sigma holds levels that are NaN or below 0")
        told = wire.to_condition(given, shape)
        found = tuple(tuple(part.shape[1:]) for part in told.inputs)
        if found and found != (due := inputs_of(shape[1], *shape[3:])):
            raise ValueError(f"the inputs have rows of {_shapes(found)}; {_shapes(due)} are due, as of POST /condition")
        return {"x0": denoiser.x0(noisy, sigma, told)}

    @functools.lru_cache(64)
    def inputs_of(frames: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row of each input of clips that are told a first frame: those of a black one."""
        shape = (1, min(spec.given, 1), 3, height * spec.stride, width * spec.stride)
        first = torch.zeros(shape, device=config.backbone.device)
        return tuple(tuple(part.shape[1:]) for part in denoiser.condition(first, _pixel_frames(spec, frames)).inputs)

    return {"encode": encode, "decode": decode, "condition": condition, "predict": predict}


def _latents(config: Config, spec: DenoiserSpec, given: dict[str, Tensor], name: str) -> Tensor:
    """Latents that were sent. Raises ValueError for a shape that the model does not take."""
    sent = wire.needed(given, name)
    if sent.ndim != 5 or sent.shape[2] != spec.channels or 0 in sent.shape:
        raise ValueError(f"'{name}' has shape {list(sent.shape)}; give [B, F, {spec.channels}, h, w]")
    height, width = (side * spec.stride for side in sent.shape[3:])
    check_size(spec, _pixel_frames(spec, sent.shape[1]), height, width)
    _check_count(config, _pixel_frames(spec, sent.shape[1]))
    return sent


def _pixel_frames(spec: DenoiserSpec, frames: int) -> int:
    """T of F latent frames."""
    lone = int(spec.lone_first)
    return spec.frame_stride * (frames - lone) + lone


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes) or "none"


def _check_count(config: Config, frames: int) -> None:
    if frames > config.most_frames:
        raise ValueError(f"a clip of {frames} frames is asked for, {config.most_frames} are the most (--most-frames)")


def _check_answer(config: Config, shape: tuple[int, ...]) -> None:
    """Raise ValueError before an answer of this shape is made that is too large: few bytes may ask for many."""
    size = 4 * math.prod(shape)
    if size > config.most_bytes or 0 in shape:
        raise ValueError(
            f"an answer of shape {list(shape)} is asked for, {size} bytes; it must be 1 to {config.most_bytes} "
            "(--most-bytes)"
        )


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
