"""A video model behind HTTP, or behind three functions, predicts what it does in the open; what goes wrong is told."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.boxes import SIDE, clip, in_process, tiny
from worldsim import cli
from worldsim.backbones import video
from worldsim.backbones.video import black_box, wire
from worldsim.backbones.video.black_box import BlackBox
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.jobs import seen_films, serve_backbone
from worldsim.protocols import Condition


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> VideoDenoiser:
    return tiny(folder)


@pytest.fixture(scope="module")
def url(folder: Path, denoiser: VideoDenoiser) -> Iterator[str]:
    config = serve_backbone.Config(video.Config(str(folder)), port=0, most_bytes=2**20)
    server = serve_backbone.make_server(config, denoiser)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("where", ["process", "http"])
def test_a_black_box_predicts_what_the_model_does(denoiser: VideoDenoiser, url: str, where: str) -> None:
    box = black_box.connect(black_box.Config(url)) if where == "http" else in_process(denoiser)
    assert (box.spec, box.schedule, box.fingerprint) == (denoiser.spec, denoiser.schedule, denoiser.fingerprint)
    latents = denoiser.encode(clip())
    torch.testing.assert_close(box.encode(clip()), latents, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(box.decode(latents), denoiser.decode(latents), rtol=1e-6, atol=1e-6)
    condition, own = box.condition(clip()[:, :1], 5), denoiser.condition(clip()[:, :1], 5)
    torch.testing.assert_close(condition.clean, own.clean, rtol=1e-6, atol=1e-6)
    assert torch.equal(condition.clean_mask, own.clean_mask) and bool(own.clean_mask[:, 0].all())
    for level in (0.3, float("inf")):
        sigma = torch.tensor([[0.0, level], [0.0, 2.0]])
        found = box.x0(latents.flip(1), sigma, condition)
        torch.testing.assert_close(found, denoiser.x0(latents.flip(1), sigma, own), rtol=1e-6, atol=1e-6)
        assert torch.equal(found[:, 0], condition.clean[:, 0])


GIVEN = torch.zeros(1, 1, 3, SIDE, SIDE)


def told(**other: Tensor) -> dict[str, Tensor]:
    """A request to predict, but for what is other."""
    latents = torch.zeros(1, 2, 16, 4, 4)
    return {"noisy": latents, "sigma": torch.ones(1, 2), "clean": latents, "clean_mask": torch.zeros(1, 2), **other}


def post(where: str, body: bytes) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(where, body), timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("encode", b"hello", 400, "no safetensors"),
        ("encode", wire.pack({"film": torch.zeros(1)}), 400, "'video' is missing; there are film"),
        ("encode", wire.pack({"video": torch.full((1, 5, 3, 32, 32), torch.nan)}), 400, "not finite"),
        ("encode", wire.pack({"video": torch.zeros(1, 6, 3, 32, 32)}), 400, "the nearest are"),
        ("encode", wire.pack({"video": torch.zeros(0, 5, 3, 32, 32)}), 400, "[0, 2, 16, 4, 4] is asked"),
        ("encode", wire.pack({"video": torch.zeros(1, 5, 3, 32, 32).to(torch.float8_e5m2)}), 400, "float8_e5m2; float"),
        ("encode", bytes(2**20 + 1), 413, "1048576 are the most"),
        ("decode", wire.pack({"latents": torch.zeros(3)}), 400, "give [B, F, 16, h, w]"),
        ("decode", wire.pack({"latents": torch.zeros(1, 2, 3, 4, 4)}), 400, "give [B, F, 16, h, w]"),
        ("condition", wire.pack({"first": torch.zeros(3), "frames": torch.tensor(5)}), 400, "give [B, K, 3, Y, X]"),
        ("condition", wire.pack({"first": GIVEN, "frames": torch.tensor(10**9)}), 400, "1024 are the most"),
        ("condition", wire.pack({"first": GIVEN, "frames": torch.zeros(2)}), 400, "give one whole number"),
        ("predict", wire.pack(told(clean_mask=torch.zeros(1, 3))), 400, "[1, 2] was due"),
        ("predict", wire.pack(told(clean=torch.zeros(1, 2, 16, 2, 4))), 400, "[1, 2, 16, 4, 4] was due"),
        ("predict", wire.pack({**told(), "input.0": torch.zeros(4, 4)}), 400, "1 rows were due"),
        ("predict", wire.pack(told(sigma=torch.full((1, 2), torch.nan))), 400, "NaN or below 0"),
        ("draw", b"", 404, "encode, decode, condition, predict"),
        (
            "encode",
            wire.pack({"video": torch.zeros(1, 5, 3, 32, 32, dtype=torch.uint8)}),
            400,
            "holds torch.uint8; float16, ",
        ),
        (
            "condition",
            wire.pack({"first": torch.zeros(99, 0, 3, 32, 32), "frames": torch.tensor(101)}),
            400,
            "is asked",
        ),
        ("condition", wire.pack({"first": torch.zeros(0, 1, 3, 32, 32), "frames": torch.tensor(5)}), 400, "is asked"),
        ("decode", wire.pack({"latents": torch.zeros(1, 258, 16, 4, 4)}), 400, "1024 are the most"),
        ("decode", wire.pack({"latents": torch.zeros(1, 200, 16, 4, 4)}), 400, "(--most-bytes)"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    url: str, path: str, body: bytes, code: int, message: str
) -> None:
    found, said = post(f"{url}/{path}", body)
    assert found == code and message in said
    black_box.connect(black_box.Config(url))  # and the service goes on


def test_what_a_model_was_pretrained_on_is_told_over_http(denoiser: VideoDenoiser, url: str) -> None:
    assert seen_films.listed_of(url) is None, "the model here says nothing"
    config = serve_backbone.Config(video.Config("tiny-video"), port=0)
    server = serve_backbone.make_server(config, denoiser)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        told = seen_films.listed_of(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
    assert told is not None and told.films and told == seen_films.listed_of("tiny-video")


def test_a_proxy_is_not_asked_for_a_service_on_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    black_box.connect(black_box.Config(url, tries=1))


def test_callers_that_say_nothing_take_no_place(denoiser: VideoDenoiser) -> None:
    server = serve_backbone.make_server(serve_backbone.Config(port=0, most_waiting=1), denoiser)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    port = int(server.server_address[1])
    head = b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        for one in silent:
            one.sendall(head)
        box = black_box.connect(black_box.Config(f"http://127.0.0.1:{port}", tries=1))
        assert box.encode(clip()).shape[0] == 2
    finally:
        for one in silent:
            one.close()
        server.shutdown()
        server.server_close()


def test_a_port_in_use_and_a_device_that_is_not_there_are_told_before_loading(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(video, "build", build)
    assert cli.main(["serve-backbone", "--port", url.rpartition(":")[2]]) == cli.USAGE_ERROR
    assert "give another --port" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["serve-backbone", "--port", "0", "--backbone.device", "cuda"]) == cli.USAGE_ERROR
    assert "cuda" in capsys.readouterr().err
    assert cli.main(["serve-backbone", "--prompt", "a dot"]) == cli.USAGE_ERROR
    assert "did you mean --backbone.prompt?" in capsys.readouterr().err


def test_a_failure_is_answered_and_those_who_would_wait_too_long_are_told(denoiser: VideoDenoiser) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def broken(_: Tensor) -> Tensor:
        entered.set()
        go_on.wait(30)
        raise IndexError("out of range")

    box = in_process(denoiser)
    box.encode = broken  # pyright: ignore[reportAttributeAccessIssue]
    server = serve_backbone.make_server(serve_backbone.Config(port=0, most_waiting=1), box)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    where, body = f"http://127.0.0.1:{server.server_address[1]}/encode", wire.pack({"video": clip()})
    found: list[tuple[int, str]] = []
    first = threading.Thread(target=lambda: found.append(post(where, body)))
    first.start()
    try:
        assert entered.wait(30)
        assert post(where, body) == (503, "1 requests wait already (--most-waiting): come later")
    finally:
        go_on.set()
        first.join()
        server.shutdown()
        server.server_close()
    assert found == [(500, "IndexError: out of range")]


def test_a_refusal_reaches_the_user_and_is_not_tried_again(url: str, caplog: pytest.LogCaptureFixture) -> None:
    box = black_box.connect(black_box.Config(url, pause=5))
    with pytest.raises(ValueError, match=r"refused \(413\).*are the most"):
        box.encode(torch.zeros(16, 5, 3, SIDE * 2, SIDE * 2))
    assert "trying again" not in caplog.text


def test_answers_lie_where_the_question_did(denoiser: VideoDenoiser) -> None:
    def far(_: Tensor) -> Tensor:
        return torch.zeros(2, 2, 16, 4, 4)

    box = BlackBox(denoiser.spec, denoiser.schedule, "x", far, denoiser.decode, denoiser.x0)
    assert box.encode(clip().to("meta")).device.type == "meta"


def test_a_service_that_died_is_told(denoiser: VideoDenoiser) -> None:
    server = serve_backbone.make_server(serve_backbone.Config(port=0), denoiser)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    box = black_box.connect(black_box.Config(address, tries=2, pause=0.01))
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"did not answer in 2 tries.*serve-backbone"):
        box.encode(clip())
    with pytest.raises(ConnectionError, match="did not answer"):
        black_box.connect(black_box.Config(address, tries=1))


def test_functions_that_break_their_word_are_told(denoiser: VideoDenoiser) -> None:
    spec, schedule = denoiser.spec, denoiser.schedule

    def broken(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return noisy * torch.nan

    box = BlackBox(spec, schedule, "x", denoiser.encode, denoiser.decode, broken)
    latents = denoiser.encode(clip())
    with pytest.raises(ValueError, match="answer of predict holds numbers that are not finite"):
        box.x0(latents, torch.ones(2, 2), box.condition(clip()[:, :0], 5))
    none: Any = BlackBox(spec, schedule, "x", lambda _: None, denoiser.decode, denoiser.x0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="encode gave back a NoneType"):
        none.encode(clip())
    with pytest.raises(ValueError, match="5 first frames are given; this model takes 0 to 1"):
        box.condition(clip(), 5)
    with pytest.raises(ValueError, match=r"sigma has shape \[3\]"):
        box.x0(latents, torch.ones(3), box.condition(clip()[:, :0], 5))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"host": "0.0.0.0"}, "others can reach"),  # noqa: S104
        ({"host": "example.org"}, "others can reach"),
        ({"port": 70000}, "port is 70000"),
        ({"most_bytes": 0}, "most_bytes is 0"),
    ],
)
def test_a_service_is_for_this_machine_unless_said_otherwise(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        serve_backbone.Config(**settings)  # pyright: ignore[reportArgumentType]
    assert serve_backbone.Config(host="::1").host == "::1"
