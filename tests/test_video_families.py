"""What every family of video models keeps, whatever it is called, here and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import test_cosmos
from tests.video_cases import CASES, SERVED, Case
from worldsim.adapters.video import avid, controlnet, film, full, lora
from worldsim.adapters.video.network import Size
from worldsim.backbones import video
from worldsim.backbones.video import black_box, wire
from worldsim.backbones.video.denoiser import DENOISERS, VideoDenoiser
from worldsim.backbones.video.untrained import begun_anew
from worldsim.diffusion import PATCH
from worldsim.diffusion.frames import fresh_latents, latent_frames
from worldsim.jobs import serve_backbone
from worldsim.keys import rows
from worldsim.models.diffusion import DiffusionModel, Sampling
from worldsim.nets.local import Local
from worldsim.protocols import ActionSpec, Condition, ModelSpec, Moves, Obs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
GUIDANCE = 3.0
TEXTLESS = ("svd", "tiny-video")


@dataclass(frozen=True)
class Made:
    """A pipeline that was made, its case and our view of it."""

    case: Case
    pipe: Any
    denoiser: VideoDenoiser


def opened(case: Case, pipe: Any, prompt: str, negative: str, guidance: float) -> VideoDenoiser:
    family = video.families()[case.of].wrap(pipe)
    return VideoDenoiser(family, family.embed(prompt, negative), guidance)


@pytest.fixture(scope="module", autouse=True)
def _guardrail() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (test_cosmos.pipeline_cosmos2_5_predict, test_cosmos.pipeline_cosmos2_video2world):
            patch.setattr(module, "CosmosSafetyChecker", test_cosmos.Guardrail)
        yield


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest) -> Made:
    case = CASES[request.param]
    pipe, texts = case.make(), ("", "") if request.param in TEXTLESS else ("a dot moves", "nothing")
    assert isinstance(pipe, SimpleNamespace) or type(pipe).__name__ == case.of
    return Made(case, pipe, opened(case, pipe, *texts, 1.0 if request.param == "tiny-video" else GUIDANCE))


def clip(case: Case, rows: int = 1) -> Tensor:
    shape = (rows, case.frames, 3, case.height, case.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def noise(made: Made, rows: int = 1) -> Tensor:
    case, spec = made.case, made.denoiser.spec
    sides = (case.height // spec.stride, case.width // spec.stride)
    shape = (rows, latent_frames(spec, case.frames), spec.channels, *sides)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def condition(made: Made, given: int) -> Condition:
    return made.denoiser.condition(clip(made.case)[:, :given], made.case.frames)


def test_no_family_is_left_out() -> None:
    assert {case.of for case in CASES.values()} == set(video.families())


def test_it_is_frozen_and_every_frame_is_seen_by_the_last(made: Made) -> None:
    denoiser = made.denoiser
    denoiser.train()
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not any(m.training for m in denoiser.modules())
    told, noisy = condition(made, min(denoiser.spec.given, 1)), noise(made).requires_grad_()
    denoiser.x0(noisy, torch.full(noisy.shape[:2], 1.5), told)[:, -1].sum().backward()
    assert noisy.grad is not None
    assert bool(noisy.grad.flatten(2).any(2)[told.clean_mask == 0].all())


def test_guidance_tells_in_predictions_and_in_the_fingerprint(made: Made) -> None:
    denoiser, sigma = made.denoiser, torch.full(noise(made).shape[:2], 1.5)
    assert len(denoiser.fingerprint) == 16
    if denoiser.spec.guidance == "none":
        with pytest.raises(ValueError, match=r"guidance is 2\.0, but this model has none"):
            VideoDenoiser(denoiser.family, denoiser.text, 2.0)
        return
    other = VideoDenoiser(denoiser.family, denoiser.text, GUIDANCE + 1)
    assert other.fingerprint != denoiser.fingerprint
    if denoiser.spec.guidance != "distilled":
        return  # a step with guidance is compared with that of its own pipeline
    told = condition(made, min(denoiser.spec.given, 1))
    with torch.no_grad():
        assert not torch.allclose(denoiser.x0(noise(made), sigma, told), other.x0(noise(made), sigma, told))


def test_a_frame_has_a_level_of_its_own_or_is_refused_one(made: Made) -> None:
    denoiser = made.denoiser
    told = condition(made, 1 if made.case.needs and denoiser.spec.per_frame else 0)
    free = int(told.clean_mask.sum())
    same = torch.full(noise(made).shape[:2], 3.0)
    low, clean = same.clone(), same.clone()
    low[:, free], clean[:, free] = 0.2, 0.0
    if not denoiser.spec.per_frame:
        with pytest.raises(ValueError, match="takes one for all its frames"):
            denoiser.x0(noise(made), low, told)
        return
    with torch.no_grad():
        high, other, still = (denoiser.x0(noise(made), levels, told) for levels in (same, low, clean))
    assert not torch.allclose(high[:, -1], other[:, -1], atol=1e-4)
    assert torch.equal(still[:, free], noise(made)[:, free])


def test_what_it_does_not_take_is_named_with_the_nearest(made: Made) -> None:
    denoiser, case = made.denoiser, made.case
    with pytest.raises(ValueError, match=case.wrong_told):
        denoiser.encode(torch.zeros(1, case.wrong, 3, case.height, case.width))
    with pytest.raises(ValueError, match=case.odd_told):
        denoiser.encode(torch.zeros(1, case.frames, 3, *case.odd))
    most = min(denoiser.spec.given, case.frames)
    with pytest.raises(ValueError, match=f"{most + 1} first frames are given; this model takes 0 to {most}"):
        denoiser.condition(torch.zeros(1, most + 1, 3, case.height, case.width), case.frames)
    if case.needs:
        with pytest.raises(ValueError, match=case.needs):
            denoiser.x0(noise(made), torch.ones(noise(made).shape[:2]), condition(made, 0))


@pytest.mark.parametrize("made", [name for name, case in CASES.items() if case.normal], indirect=True)
def test_latents_and_pixels_are_those_of_the_autoencoder(made: Made) -> None:
    """Of the others, their own files compare them with their own pipelines."""
    vae, denoiser, shown = made.pipe.vae, made.denoiser, clip(made.case, 2)
    assert made.case.normal is not None
    mean, std = made.case.normal(vae)
    latents = denoiser.encode(shown)
    assert latents.shape == noise(made, 2).shape and not latents.requires_grad
    with torch.no_grad():
        own = torch.cat([vae.encode(row[None]).latent_dist.mode() for row in shown.transpose(1, 2)])
        decoded = torch.cat([vae.decode(row[None]).sample for row in own]).clamp(-1, 1)
    torch.testing.assert_close(latents.transpose(1, 2), (own - mean) / std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoiser.decode(latents).transpose(1, 2), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("made", SERVED, indirect=True)
def test_begun_anew_it_shares_all_but_its_denoisers(made: Made) -> None:
    denoiser, told = made.denoiser, condition(made, min(made.denoiser.spec.given, 1))
    sigma = torch.full(noise(made).shape[:2], 1.5)
    with torch.no_grad():
        before = denoiser.x0(noise(made), sigma, told)
        fresh = begun_anew(denoiser, video.Config(made.case.of), seed=11)  # the tiny networks have seed 0
        found, after = (one.x0(noise(made), sigma, told) for one in (fresh, denoiser))
    assert torch.equal(before, after) and not torch.allclose(found, before, atol=1e-3)
    for name, network in denoiser.networks.items():
        assert (fresh.networks[name] is network) == (name not in DENOISERS)
    assert not any(p.requires_grad for p in fresh.parameters())


@pytest.mark.parametrize("made", SERVED, indirect=True)
def test_it_is_served_with_its_schedule_and_the_null_prompt(made: Made) -> None:
    case = made.case
    denoiser = opened(case, made.pipe, "", "", 1.0)
    said = wire.understand(wire.describe(denoiser.spec, denoiser.schedule, "x").encode())
    assert said == (denoiser.spec, denoiser.schedule, "x")
    server = serve_backbone.make_server(serve_backbone.Config(port=0), denoiser)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        box = black_box.connect(black_box.Config(f"http://127.0.0.1:{server.server_address[1]}"))
        first = clip(case)[:, : min(denoiser.spec.given, 1)]
        own, lent = denoiser.condition(first, case.frames), box.condition(first, case.frames)
        noisy = noise(made)
        sigma = torch.ones(noisy.shape[:2])
        expected = denoiser.x0(noisy, sigma, own)
        assert bool(expected.isfinite().all())
        torch.testing.assert_close(box.x0(noisy, sigma, lent), expected, rtol=1e-5, atol=1e-5)
        longer = tuple(torch.cat([part, part], part.ndim - 1) for part in lent.inputs) or (torch.zeros(1, 2),)
        with pytest.raises(ValueError, match=r"refused \(400\): the inputs have rows of .* due"):
            box.x0(noisy, sigma, replace(lent, inputs=longer))
    finally:
        server.shutdown()
        server.server_close()


SIZE = Size(hidden=24, depth=2, heads=2, local=Local(8, 1, 1))
ADAPTERS: dict[str, tuple[Any, Any]] = {
    "avid": (avid, avid.Config(SIZE)),
    "film": (film, film.Config(8)),
    "lora": (lora, lora.Config(2, width=8)),
    "full": (full, full.Config(8)),
    "controlnet": (controlnet, controlnet.Config(width=8)),
    "lite": (controlnet, controlnet.Config("lite", size=SIZE)),
}
TWO_NETWORKS, PAIRED = ("wan experts",), ("cogvideox pairs", "cogvideox pairs_picture")  # of latent frames in a token


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_action_reaches_the_latent_frame_that_it_led_to(
    made: Made, kind: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["made"]
    (module, config), case, denoiser = ADAPTERS[kind], made.case, made.denoiser
    told = {**dict.fromkeys(TWO_NETWORKS, "2 denoising networks"), **dict.fromkeys(PAIRED, "not those of 3 latent")}
    torch.manual_seed(0)
    action = torch.rand(1, case.frames - 1, 1, 2) * 2 - 1
    condition = denoiser.condition(clip(case)[:, : min(1, denoiser.spec.given)], case.frames)
    noisy = noise(made)
    sigma = torch.full(noisy.shape[:2], 1.5)

    def answer(adapter: Any, moves: Tensor) -> Tensor:
        with torch.no_grad():
            return adapter.x0(denoiser, noisy, sigma, condition, Moves(moves, torch.ones(1, dtype=torch.bool)))

    def made_anew() -> Any:
        adapter = module.build(config, denoiser, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 1)
        begun = answer(adapter, action)
        assert torch.allclose(begun, denoiser.x0(noisy, sigma, condition), atol=1e-4) == adapter.starts_as_base
        return adapter

    if name in told and kind != "avid":
        with pytest.raises(ValueError, match=told[name]):
            made_anew()
        return
    if kind == "controlnet" and any(site.maps for site in denoiser.sites):
        with pytest.raises(ValueError, match="give --adapter.branch lite"):
            made_anew()
        return
    adapter = made_anew()
    with torch.no_grad():
        for weight in adapter.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape) * 0.05)
    other = action.clone()
    other[:, -1] += 0.7
    moved = (answer(adapter, other) - answer(adapter, action)).abs().amax((0, 2, 3, 4))
    assert moved[-1] > 1e-3 and (moved[0] < 0.5 * moved[-1] if kind != "avid" else moved[0] == 0)


def test_a_step_of_all_frames_that_are_not_given_is_rolled_out(made: Made) -> None:
    case, denoiser = made.case, made.denoiser
    spec = denoiser.spec
    if not spec.given:
        pytest.skip("it takes no first frame")
    count = case.frames - 1
    fresh, action = fresh_latents(spec, case.frames, count), ActionSpec((-1.0,), (1.0,))
    latent = (fresh * (case.height // spec.stride // PATCH) * (case.width // spec.stride // PATCH), spec.channels * 4)
    image = (1, 3, case.height, case.width)
    told = ModelSpec(action, image, None, 1, count, count, 1.0, latent, denoiser.fingerprint, stochastic=True)
    adapter = avid.build(avid.Config(SIZE), denoiser, action, 1)
    world = DiffusionModel(told, denoiser, adapter, case.frames, Sampling(1))
    state = world.encode(Obs(clip(case)[:, :1, None], None, torch.zeros(1, 1)), torch.zeros(1, 0, count, 1), rows(0, 1))
    rollout = world.rollout(state, torch.zeros(1, 2, count, 1))
    assert world.decode(state, rollout.latents).shape == (1, 2 * count, *image)
    assert rollout.latents.shape == (1, 2, *latent)
