"""A video model of which nothing is known but what it computes: three functions here, or a service elsewhere.

AVID needs no weights (arXiv 2410.12822): whoever can encode, decode and predict can lend a model to be adapted.
"""

from __future__ import annotations

import ipaddress
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import cast

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.backbones.video import wire
from worldsim.backbones.video.checks import check_first, check_latents, check_levels, check_video
from worldsim.protocols import Condition, DenoiserSpec, Schedule

log = logging.getLogger(__name__)
NOTHING = "null"  # JSON, of a model that does not say what it was trained on

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""(noisy latents [B, F, C, h, w], levels [B, F], what is given) -> clean latents [B, F, C, h, w]."""


class BlackBox:
    """Three functions as a `protocols.FrozenDenoiser`; no gradient goes through.

    What they return is checked: another shape or a number that is not finite is a ValueError.
    """

    def __init__(
        self,
        spec: DenoiserSpec,
        schedule: Schedule,
        fingerprint: str,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        predict: Predict,
        condition: Callable[[Tensor, int], Condition] | None = None,
    ) -> None:
        """condition: None makes it of `encode`: given frames are put in place of noisy ones."""
        self.spec, self.schedule, self.fingerprint = spec, schedule, fingerprint
        self._encode, self._decode, self._predict, self._condition = encode, decode, predict, condition

    def encode(self, video: Tensor) -> Tensor:
        """See `protocols.FrozenDenoiser.encode`."""
        frames, spec = check_video(self.spec, video), self.spec
        side = [length // spec.stride for length in video.shape[3:]]
        return self._asked(self._encode, "encode", (video.shape[0], frames, spec.channels, *side), video)

    def decode(self, latents: Tensor) -> Tensor:
        """See `protocols.FrozenDenoiser.decode`."""
        count, stride = check_latents(self.spec, latents), self.spec.stride
        shape = (len(latents), count, 3, latents.shape[3] * stride, latents.shape[4] * stride)
        return self._asked(self._decode, "decode", shape, latents)

    def condition(self, first: Tensor, frames: int) -> Condition:
        """See `protocols.FrozenDenoiser.condition`."""
        shape, given = check_first(self.spec, first, frames), first.shape[1]
        if self._condition is not None and given:
            with torch.no_grad():
                told = wire.to_condition(wire.of_condition(self._condition(first, frames)), shape)
            own = (part.to(first.device) for part in told.inputs)
            return Condition(told.clean.to(first.device), told.clean_mask.to(first.device), tuple(own))
        clean = first.new_zeros(shape)
        mask = first.new_zeros(shape[:2])
        if given:
            known = self.encode(first)
            clean[:, : known.shape[1]], mask[:, : known.shape[1]] = known, 1.0
        return Condition(clean, mask)

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """See `protocols.FrozenDenoiser.x0`."""
        check_latents(self.spec, noisy, condition)
        check_levels(sigma, noisy)
        held = condition.clean_mask > 0
        sigma = torch.where(held, 0.0, sigma)
        noisy = torch.where(diffusion.spread(held, noisy), condition.clean, noisy)
        found = self._asked(self._predict, "predict", tuple(noisy.shape), noisy, sigma, condition)
        return torch.where(diffusion.spread(sigma == 0, noisy), noisy, found)

    def _asked(
        self, function: Callable[..., Tensor], name: str, shape: tuple[int, ...], like: Tensor, *more: object
    ) -> Tensor:
        """The answer, float32, on the device of the first tensor that was given."""
        with torch.no_grad():
            found: object = function(like, *more)
        if not isinstance(found, Tensor):
            raise ValueError(f"{name} gave back a {type(found).__name__}: the black box must answer with a tensor")
        found = wire.checked(found, shape, f"the answer of {name}")
        if not bool(found.isfinite().all()):
            raise ValueError(f"the answer of {name} holds numbers that are not finite: the black box is broken")
        return found.to(like.device)


@dataclass(frozen=True)
class Config:
    """Where a service is, and how patient to be."""

    url: str = "http://127.0.0.1:8765"
    timeout: float = 600.0
    """Seconds to wait for one answer, whole."""
    most_bytes: int = 2**30
    """Of an answer; a larger one is refused."""
    tries: int = 3
    """How often to ask before giving up, if nobody answers."""
    pause: float = 1.0
    """Seconds before the second try; doubled each time."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot be."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}: it must begin with http:// or https://")
        if wrong := _wrong(self.url):
            raise ValueError(f"url is {self.url!r}: {wrong}; give one as http://127.0.0.1:8765")
        if self.timeout <= 0 or self.tries < 1 or self.pause < 0:
            raise ValueError(f"timeout {self.timeout}, tries {self.tries}, pause {self.pause}: they must be above 0")
        if self.most_bytes < 1:
            raise ValueError(f"most_bytes is {self.most_bytes}, it must be 1 or more")


def connect(config: Config) -> BlackBox:
    """The video model that `worldsim serve-backbone` lends at an address.

    Raises ConnectionError if nobody answers there and ValueError if what answers is no such service.
    """
    spec, schedule, fingerprint = wire.understand(_ask(config, "spec", None))

    def encode(video: Tensor) -> Tensor:
        return wire.needed(_send(config, "encode", {"video": video}), "latents")

    def decode(latents: Tensor) -> Tensor:
        return wire.needed(_send(config, "decode", {"latents": latents}), "video")

    def predict(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        given = {wire.NOISY: noisy, wire.SIGMA: sigma, **wire.of_condition(condition)}
        return wire.needed(_send(config, "predict", given), "x0")

    def condition(first: Tensor, frames: int) -> Condition:
        sent = {"first": first, "frames": torch.tensor(frames)}
        told = _send(config, "condition", sent)
        return wire.to_condition(told, tuple(wire.needed(told, wire.CLEAN).shape))

    return BlackBox(spec, schedule, fingerprint, encode, decode, predict, condition)


def pretraining(config: Config) -> str | None:
    """The `pretraining.json` of the model that is lent, None if it says nothing. Raises as `connect`."""
    said = _ask(config, "pretraining", None).decode(errors="replace")
    return None if said == NOTHING else said


def _send(config: Config, path: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    body = _ask(config, path, wire.pack(tensors))
    try:
        return wire.unpack(body)
    except ValueError as error:
        raise ValueError(f"{config.url}/{path} answered garbage: {error}; is it `worldsim serve-backbone`?") from error


def _ask(config: Config, path: str, body: bytes | None) -> bytes:
    """The answer; asked again where nobody answers, not where the service refuses."""
    where, pause, why = f"{config.url.rstrip('/')}/{path}", config.pause, ""
    for attempt in range(1, config.tries + 1):
        began = time.monotonic()
        request = urllib.request.Request(where, body, {"Content-Type": "application/octet-stream"})
        try:
            with _opener(where).open(request, timeout=config.timeout) as answer:
                return _read(answer, config, where, began + config.timeout)
        except urllib.error.HTTPError as error:
            said = _said(cast(HTTPResponse, error.fp), began + config.timeout)
            if error.code < 500 or error.code == 507:
                raise ValueError(f"{where} refused ({error.code}): {said}") from error
            why = f"it failed ({error.code}): {said}"
        except TimeoutError:
            why = f"no answer within {config.timeout:g} s (timeout)"
        except (urllib.error.URLError, HTTPException, OSError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt < config.tries:
            log.warning("%s: %s; trying again in %.1f s (%d of %d)", where, why, pause, attempt, config.tries)
            time.sleep(pause)
            pause *= 2
    raise ConnectionError(
        f"{where} did not answer in {config.tries} tries: {why}. Is `worldsim serve-backbone` running there? A slow "
        "model needs a longer one: set remote.timeout"
    )


def _opener(where: str) -> urllib.request.OpenerDirector:
    """What asks: past any proxy where the service is on this machine, as a proxy would look for it on its own."""
    here = is_loopback(urllib.parse.urlsplit(where).hostname or "")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(url: str) -> str:
    """What is wrong with an address, nothing if it can be."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return "it has spaces or letters that are not ASCII, which must be quoted"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as a look-up does, which fails for parts of no letter and of more than 63
    except ValueError as error:
        return str(error)
    if not host or "@" in parts.netloc:
        return "it must name a host, and no user"
    if port == 0:
        return "its port is 0, it must be from 1 to 65535"
    return "it must end with its path" if "?" in url or "#" in url else ""


def _said(answer: HTTPResponse, end: float) -> str:
    """How a service says that it fails, as far as that comes before the moment `end`."""
    said = b""
    try:
        while len(said) < 2000 and time.monotonic() < end and (part := answer.read1(2000 - len(said))):
            said += part
    except (OSError, HTTPException):
        pass  # that it fails is known, and why is not
    return said.decode(errors="replace").strip()


def _read(answer: HTTPResponse, config: Config, where: str, end: float) -> bytes:
    """The body, in parts: `timeout` of a socket is for one read of it, and a body has no bound of its own.

    Raises TimeoutError after the moment `end` and ValueError for more than `most_bytes`.
    """
    parts, length = [], 0
    while part := answer.read1(2**20):
        length += len(part)
        if length > config.most_bytes:
            raise ValueError(
                f"{where} answered more than {config.most_bytes} bytes, the most that are taken: set remote.most_bytes"
            )
        if time.monotonic() > end:
            raise TimeoutError
        parts.append(part)
    if answer.length:
        raise IncompleteRead(b"", answer.length)
    return b"".join(parts)
