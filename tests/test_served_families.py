"""Every family of video models is served over HTTP with the default prompt, and predicts there what it does here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import (
    test_animatediff,
    test_cogvideox,
    test_cosmos,
    test_hunyuan_video,
    test_hunyuan_video15,
    test_ltx,
    test_skyreels_v2,
    test_svd,
    test_tiny_video,
    test_wan,
)
from worldsim.backbones import video
from worldsim.backbones.video import black_box, wire
from worldsim.backbones.video.denoiser import VideoDenoiser, latent_frames
from worldsim.jobs import serve_backbone

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@dataclass(frozen=True)
class Case:
    """How a tiny pipeline is made, and a clip that it takes."""

    make: Callable[[], Any]
    frames: int
    height: int = 32
    width: int = 32


def tiny() -> Any:
    vae, transformer, scheduler = test_tiny_video.parts()
    return SimpleNamespace(vae=vae, transformer=transformer, scheduler=scheduler)


CASES = {
    "AnimateDiffPipeline": Case(test_animatediff.pipeline, 3, test_animatediff.HEIGHT, test_animatediff.WIDTH),
    "CogVideoXPipeline": Case(lambda: test_cogvideox.pipeline("5b"), 9),
    "CogVideoXImageToVideoPipeline": Case(lambda: test_cogvideox.pipeline("pairs_picture"), 9),
    "Cosmos2VideoToWorldPipeline": Case(lambda: test_cosmos.pipeline("2"), 9),
    "Cosmos2_5_PredictBasePipeline": Case(lambda: test_cosmos.pipeline("2.5"), 9),
    "HunyuanVideoPipeline": Case(lambda: test_hunyuan_video.pipeline("text"), 5),
    "HunyuanVideoImageToVideoPipeline": Case(lambda: test_hunyuan_video.pipeline("concat"), 5),
    "HunyuanVideo15Pipeline": Case(lambda: test_hunyuan_video15.pipeline("text"), 5),
    "HunyuanVideo15ImageToVideoPipeline": Case(lambda: test_hunyuan_video15.pipeline("picture"), 5),
    "LTXPipeline": Case(lambda: test_ltx.LTXPipeline(**test_ltx.parts()), 9),
    "LTXImageToVideoPipeline": Case(lambda: test_ltx.LTXImageToVideoPipeline(**test_ltx.parts()), 9),
    "SkyReelsV2DiffusionForcingPipeline": Case(lambda: test_skyreels_v2.pipeline("forcing"), 13),
    "SkyReelsV2Pipeline": Case(lambda: test_skyreels_v2.pipeline("text"), 13),
    "StableVideoDiffusionPipeline": Case(test_svd.pipeline, 3, test_svd.HEIGHT, test_svd.WIDTH),
    "TinyVideoPipeline": Case(tiny, 3),
    "WanPipeline": Case(lambda: test_wan.pipeline("text"), 5),
    "WanImageToVideoPipeline": Case(lambda: test_wan.pipeline("picture"), 5),
}


@pytest.fixture(scope="module", autouse=True)
def _guardrail() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (test_cosmos.pipeline_cosmos2_5_predict, test_cosmos.pipeline_cosmos2_video2world):
            patch.setattr(module, "CosmosSafetyChecker", test_cosmos.Guardrail)
        yield


def opened(name: str) -> VideoDenoiser:
    """The model at its default prompt, the null prompt."""
    family = video.families()[name].wrap(CASES[name].make())
    return VideoDenoiser(family, family.embed("", ""), 1.0)


def clip(case: Case, rows: int = 1) -> Tensor:
    shape = (rows, case.frames, 3, case.height, case.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_no_family_is_left_out() -> None:
    assert set(CASES) == set(video.families())


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_served_with_its_schedule_and_the_null_prompt(name: str) -> None:
    case, denoiser = CASES[name], opened(name)
    said = wire.understand(wire.describe(denoiser.spec, denoiser.schedule, "x").encode())
    assert said == (denoiser.spec, denoiser.schedule, "x")
    server = serve_backbone.make_server(serve_backbone.Config(port=0), denoiser)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        box = black_box.connect(black_box.Config(f"http://127.0.0.1:{server.server_address[1]}"))
        first = clip(case)[:, : min(denoiser.spec.given, 1)]
        own, lent = denoiser.condition(first, case.frames), box.condition(first, case.frames)
        shape = (1, latent_frames(denoiser.spec, case.frames), denoiser.spec.channels)
        sides = (case.height // denoiser.spec.stride, case.width // denoiser.spec.stride)
        noisy = torch.randn(*shape, *sides, generator=torch.Generator().manual_seed(4))
        sigma = torch.ones(shape[:2])
        expected = denoiser.x0(noisy, sigma, own)
        assert bool(expected.isfinite().all())
        torch.testing.assert_close(box.x0(noisy, sigma, lent), expected, rtol=1e-5, atol=1e-5)
        longer = tuple(torch.cat([part, part], part.ndim - 1) for part in lent.inputs) or (torch.zeros(1, 2),)
        with pytest.raises(ValueError, match=r"refused \(400\): the inputs have rows of .* due"):
            box.x0(noisy, sigma, replace(lent, inputs=longer))
    finally:
        server.shutdown()
        server.server_close()
