"""Tiny pipelines of every family of video models, and clips that they take and do not take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline

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


@dataclass(frozen=True)
class Case:
    """How a tiny pipeline is made, clips that it takes and some that it does not, with what is said of these."""

    of: str  # the name of its class
    make: Callable[[], Any]
    frames: int
    wrong: int = 6
    wrong_told: str = r"6 frames.*4 k \+ 1.*\[5, 9\]"
    height: int = 32
    width: int = 32
    odd: tuple[int, int] = (33, 44)
    odd_told: str = "multiples of 16: resize them to 32 x 48"
    needs: str = ""
    """What is said where no first frame is given."""
    normal: Callable[[Any], tuple[Any, Any]] | None = None
    """Mean and deviation of the autoencoder's latents, where it alone makes latents and pixels."""


def tiny() -> Any:
    vae, transformer, scheduler = test_tiny_video.parts()
    return SimpleNamespace(vae=vae, transformer=transformer, scheduler=scheduler)


def listed(vae: Any) -> tuple[Any, Any]:
    mean, std = (torch.tensor(part)[:, None, None, None] for part in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


FIRST = "told a first frame: give one"
SMALL: dict[str, Any] = {
    "height": test_svd.HEIGHT,
    "width": test_svd.WIDTH,
    "odd_told": "multiples of 2: resize them to 32 x 44",
}
MOTION: dict[str, Any] = {"frames": 3, "wrong": 33, "wrong_told": r"33 frames.*the nearest are \[32\]", **SMALL}
COG: dict[str, Any] = {"frames": 9, "wrong": 13, "wrong_told": r"13 frames.*8 k \+ 1.*\[9, 17\]"}
PLACES: dict[str, Any] = COG | {"wrong_told": r"13 frames.*8 k \+ 1.*\[9\]"}
LTX: dict[str, Any] = {
    "frames": 17,
    "wrong": 16,
    "wrong_told": r"16 frames.*8 k \+ 1.*\[9, 17\]",
    "height": 64,
    "width": 64,
} | {
    "odd": (60, 100),
    "odd_told": "multiples of 32: resize them to 64 x 96",
}
COSMOS: dict[str, Any] = {"frames": 9, "normal": lambda _: (0.1, 1.5)}
SKYREELS: dict[str, Any] = {"frames": 13, "normal": lambda _: (0.1, 1.5)}
HUNYUAN: dict[str, Any] = {"frames": 5, "normal": lambda _: (0.0, 1 / 0.476986)}
HUNYUAN15: dict[str, Any] = {"frames": 5, "normal": lambda _: (0.0, 1 / 1.03682)}
WAN: dict[str, Any] = {"frames": 5, "normal": listed}
NONE = r"0 frames.*the nearest are \[1\]"

COG_KINDS = {
    k: ("CogVideoXImageToVideoPipeline" if "picture" in k else "CogVideoXPipeline") for k in test_cogvideox.KINDS
}
HUNYUAN_KINDS = {"text": "HunyuanVideoPipeline"} | dict.fromkeys(
    ("concat", "replace"), "HunyuanVideoImageToVideoPipeline"
)
LTX_KINDS = {"text": LTXPipeline, "picture": LTXImageToVideoPipeline, "timed": LTXPipeline}
SKYREELS_KINDS = {"text": "SkyReelsV2Pipeline"} | dict.fromkeys(
    ("forcing", "blocks"), "SkyReelsV2DiffusionForcingPipeline"
)
WAN_KINDS = {k: ("WanPipeline" if "text" in k else "WanImageToVideoPipeline") for k in test_wan.KINDS}
CASES = {
    **{
        f"animatediff {k}": Case("AnimateDiffPipeline", lambda own=own: test_animatediff.pipeline(*own), **MOTION)
        for k, own in test_animatediff.KINDS.items()
    },
    **{
        f"cogvideox {k}": Case(
            of,
            lambda k=k: test_cogvideox.pipeline(k),
            needs=FIRST if "picture" in k else "",
            **(PLACES if k == "5b_picture" else COG),
        )
        for k, of in COG_KINDS.items()
    },
    "cosmos 2": Case(
        "Cosmos2VideoToWorldPipeline", lambda: test_cosmos.pipeline("2"), needs="told first frames: give 1", **COSMOS
    ),
    "cosmos 2.5": Case("Cosmos2_5_PredictBasePipeline", lambda: test_cosmos.pipeline("2.5"), **COSMOS),
    **{
        f"hunyuan {k}": Case(
            of, lambda k=k: test_hunyuan_video.pipeline(k), needs="" if k == "text" else FIRST, **HUNYUAN
        )
        for k, of in HUNYUAN_KINDS.items()
    },
    "hunyuan15 text": Case("HunyuanVideo15Pipeline", lambda: test_hunyuan_video15.pipeline("text"), **HUNYUAN15),
    "hunyuan15 picture": Case(
        "HunyuanVideo15ImageToVideoPipeline",
        lambda: test_hunyuan_video15.pipeline("picture"),
        needs=FIRST,
        **HUNYUAN15,
    ),
    **{
        f"ltx {k}": Case(of.__name__, lambda k=k, of=of: of(**test_ltx.parts(k == "timed")), **LTX)
        for k, of in LTX_KINDS.items()
    },
    **{
        f"skyreels {k}": Case(of, lambda k=k: test_skyreels_v2.pipeline(k), **SKYREELS)
        for k, of in SKYREELS_KINDS.items()
    },
    "svd": Case("StableVideoDiffusionPipeline", test_svd.pipeline, 3, 0, NONE, needs=FIRST, **SMALL),
    "tiny-video": Case("TinyVideoPipeline", tiny, 3, 0, NONE, odd_told="multiples of"),
    **{
        f"wan {k}": Case(
            of, lambda k=k: test_wan.pipeline(k), needs=FIRST if k in ("picture", "experts") else "", **WAN
        )
        for k, of in WAN_KINDS.items()
    },
}
SERVED = {case.of: name for name, case in reversed(CASES.items())}.values()  # one for each pipeline
