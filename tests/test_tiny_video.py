"""The block-causal transformer, and a small autoencoder beside it, as a frozen video model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.video_pipelines import lively, seeded
from worldsim import diffusion, files, keys
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.contracts import check_denoiser

CHANNELS, SIDE, F = 4, 32, 3
LOCAL: Any = {"local": 8, "local_blocks": (1, 1)}


def network() -> BlockCausalTransformer:
    return lively(seeded(lambda: BlockCausalTransformer(CHANNELS, size=4, hidden=48, depth=2, heads=2, **LOCAL)))


def parts(channels: int = CHANNELS) -> tuple[AutoencoderKL, BlockCausalTransformer, FlowMatchEulerDiscreteScheduler]:
    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "norm_num_groups": 4,
        "sample_size": SIDE,
    }
    vae = seeded(lambda: AutoencoderKL(**sizes, latent_channels=channels, scaling_factor=1.3, shift_factor=0.2).eval())
    return vae, network(), FlowMatchEulerDiscreteScheduler(shift=2.0)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> VideoDenoiser:
    folder = tmp_path_factory.mktemp("tiny") / "video"
    tiny_video.save(*parts(), folder)
    return video.build(video.Config(str(folder)))


def latents(seed: int = 0, rows: int = 2) -> Tensor:
    return torch.randn(rows, F, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_a_frame_sees_itself_and_what_was_before_it() -> None:
    net, time = network(), torch.tensor([[0.0, 300.0, 900.0]]).repeat(2, 1)
    whole = net(latents(), time)
    for changed in range(F):
        other = latents()
        other[:, changed] = latents(seed=1)[:, changed]
        moved = (net(other, time) - whole).abs().amax((0, 2, 3, 4)) > 1e-5
        assert moved.tolist() == [frame >= changed for frame in range(F)]
        told = time.clone()
        told[:, changed] += 50
        moved = (net(latents(), told) - whole).abs().amax((0, 2, 3, 4)) > 1e-5
        assert moved.tolist() == [frame >= changed for frame in range(F)]


def test_rows_are_independent_and_seconds_are_told() -> None:
    net, time = network(), torch.full((2, F), 500.0)
    whole, other = net(latents(), time), latents()
    other[0] += 1
    torch.testing.assert_close(net(other, time)[1], whole[1])
    seconds = torch.tensor([[0.0, 0.5, 1.0]]).repeat(2, 1)
    torch.testing.assert_close(net(latents(), time, seconds), whole)
    assert not torch.allclose(net(latents(), time, seconds / 2)[:, 1:], whole[:, 1:], atol=1e-3)


@pytest.mark.parametrize("noise", [0.0, 100.0])
@pytest.mark.parametrize("before", [1, 2])
def test_what_is_remembered_of_earlier_frames_is_exact(before: int, noise: float) -> None:
    net, time = network(), torch.tensor([[noise] * before + [700.0] * (F - before)]).repeat(2, 1)
    whole = net(latents(), time)
    past = latents()[:, :before], time[:, :before]
    kept = net.remember(*past)
    torch.testing.assert_close(net(latents()[:, before:], time[:, before:], kept=kept), whole[:, before:])
    if before == 2:
        first = net.remember(past[0][:, :1], past[1][:, :1])
        stepwise = net.remember(past[0][:, 1:], past[1][:, 1:], kept=first)
        for one, other in zip(kept.parts, stepwise.parts, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(kept.mean, stepwise.mean)
    if not noise:
        torch.testing.assert_close(kept.mean, past[0][:, -1])


def test_it_is_a_frozen_video_model_of_levels_per_frame(denoiser: VideoDenoiser) -> None:
    spec = denoiser.spec
    assert (spec.stride, spec.multiple, spec.frame_stride, spec.per_frame) == (8, 16, 1, True)
    clip = torch.rand(2, F, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = denoiser.encode(clip)
    vae: Any = parts()[0]
    own = (vae.encode(clip.flatten(0, 1)).latent_dist.mode() - 0.2) * 1.3
    torch.testing.assert_close(found.flatten(0, 1), own, rtol=1e-4, atol=1e-5)
    assert denoiser.decode(found).shape == clip.shape
    condition = denoiser.condition(clip[:, :2], F)
    assert condition.clean_mask.tolist() == [[1, 1, 0]] * 2
    noisy, sigma = latents(), torch.tensor([[0.5, 0.5, 2.0]]).repeat(2, 1)
    clean = denoiser.x0(noisy, sigma, condition)
    assert torch.equal(clean[:, :2], found[:, :2])
    t = torch.tensor([0.0, 0.0, 2 / 3])
    own_noisy = torch.cat([found[:, :2], noisy[:, 2:] * (1 / 9 + 4 / 9) ** 0.5], 1)
    flow = network()(own_noisy, (t * 1000).expand(2, F))
    torch.testing.assert_close(clean[:, 2], own_noisy[:, 2] - t[2] * flow[:, 2], rtol=1e-4, atol=1e-4)


def test_it_keeps_the_contract_of_a_denoiser(denoiser: VideoDenoiser) -> None:
    clip = torch.rand(2, F, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    check_denoiser(denoiser, clip, latents())


def test_clips_are_sampled_frame_by_frame_as_well_as_at_once(denoiser: VideoDenoiser) -> None:
    clip = torch.zeros(1, 1, 3, SIDE, SIDE)
    condition = denoiser.condition(clip, F)
    grid = denoiser.schedule.grid(8)[:, None, None].repeat(1, 1, F)
    grid[:, :, 0] = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser.x0(x, sigma, condition)

    noise = torch.where(diffusion.spread(condition.clean_mask > 0, latents(rows=1)), condition.clean, latents(rows=1))
    found = diffusion.sample(denoise, noise, grid, "euler")
    assert torch.equal(found[:, 0], condition.clean[:, 0]) and bool(found.isfinite().all())
    later = grid.clone()
    later[:, :, 2] = grid[0, 0, 2]  # the last frame waits while the second is denoised: it sees no less
    first = diffusion.sample(denoise, noise, later, "euler")
    torch.testing.assert_close(first[:, 1], found[:, 1], rtol=1e-4, atol=1e-4)


def test_drawing_frame_after_frame_is_the_longest_lag_without_what_comes_later(denoiser: VideoDenoiser) -> None:
    clip = torch.rand(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    condition, key = denoiser.condition(clip, F), keys.rows(0, 2)
    found = diffusion.sample_frames(denoiser, condition, key, 4, "heun")
    torch.testing.assert_close(
        found, diffusion.sample_clips(denoiser, condition, key, 4, "heun", 4), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(found[:, 0], condition.clean[:, 0])
    forgetful: Any = SimpleNamespace(spec=denoiser.spec, schedule=denoiser.schedule, x0=denoiser.x0)
    again = diffusion.sample_frames(forgetful, condition, key, 4, "heun")
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-4)
    blurred = [diffusion.sample_frames(each, condition, key, 4, blur=0.2) for each in (denoiser, forgetful)]
    torch.testing.assert_close(
        *(diffusion.sample_frames(each, condition, key, 4, eta=1.0) for each in (denoiser, forgetful)),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(blurred[0], blurred[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(blurred[0][:, 0], found[:, 0])
    plain = diffusion.sample_frames(denoiser, condition, key, 4)
    torch.testing.assert_close(blurred[0][:, 1], plain[:, 1], rtol=1e-4, atol=1e-4)  # follows what is given
    assert not torch.allclose(blurred[0][:, 2], plain[:, 2], atol=1e-3)
    with pytest.raises(ValueError, match="draw whole clips"):
        diffusion.sample_frames(forgetful, replace(condition, inputs=(clip,)), key, 4)
    alone = diffusion.sample_frames(denoiser, denoiser.condition(clip[1:], F), key[1:], 4, "euler", 1.0)
    together = diffusion.sample_frames(denoiser, condition, key, 4, "euler", 1.0)
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-4)
    cold = [diffusion.sample_frames(denoiser, condition, k, 4, eta=1.0, temperature=0.0) for k in (key, key + 1)]
    torch.testing.assert_close(cold[0], cold[1], rtol=0, atol=0)  # without noise there is one clip
    assert not torch.allclose(together, diffusion.sample_frames(denoiser, condition, key, 4, eta=1.0, temperature=0.5))


@torch.no_grad()
def test_frames_after_clean_ones_are_predicted_at_once_as_each_of_them_alone() -> None:
    one, clean, noisy = network(), latents(), latents(seed=7)
    time = torch.linspace(50, 1000, F).expand(len(clean), F)
    nearly = torch.linspace(0, 200, F).expand(len(clean), F)
    for known in (torch.zeros_like(nearly), nearly):
        flow, unsure = one.after_clean(clean, noisy, time, known)
        for i in range(F):
            frames = torch.cat([clean[:, : i + 1], noisy[:, i : i + 1]], 1)
            times = torch.cat([known[:, : i + 1], time[:, i : i + 1]], 1)
            torch.testing.assert_close(flow[:, i], one(frames, times)[:, -1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(unsure[:, i], one.unsure(times)[:, -1])


def test_in_bfloat16_it_predicts_nearly_the_same(denoiser: VideoDenoiser, tmp_path: Path) -> None:
    tiny_video.save(*parts(), tmp_path / "video")
    rounded = video.build(video.Config(str(tmp_path / "video"), dtype="bfloat16"))
    clip = torch.rand(2, F, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sigma = torch.tensor([[0.5, 1.0, 2.0]]).repeat(2, 1)
    ours, theirs = (each.x0(latents(), sigma, each.condition(clip[:, :0], F)) for each in (rounded, denoiser))
    assert ours.dtype == torch.float32 and rounded.decode(rounded.encode(clip)).dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    tiny_video.save(*parts(channels=8), tmp_path / "mixed")
    with pytest.raises(ValueError, match="takes 4 channels and the autoencoder gives latents of 8"):
        video.build(video.Config(str(tmp_path / "mixed")))
    tiny_video.save(*parts(), tmp_path / "good")
    good = video.Config(str(tmp_path / "good"))
    for config, told in (
        (replace(good, prompt="a dot"), "reads no text"),
        (replace(good, guidance=2.0), "this model has none"),
        (replace(good, offload=True), "is small: leave it out"),
    ):
        with pytest.raises(ValueError, match=told):
            video.build(config)
    with pytest.raises(ValueError, match="multiple of patch"):
        BlockCausalTransformer(size=5)


def test_a_folder_is_replaced_whole_with_what_lies_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    tiny_video.save(*parts(), folder, {"said.json": {"of": "the first"}})

    def broken(*_: object) -> None:
        raise OSError("power is gone")

    with pytest.raises(FileNotFoundError, match="write it first"):
        files.replace_folder(tmp_path / "none", folder)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr("os.replace", broken)
        (tmp_path / "new").mkdir()
        files.replace_folder(tmp_path / "new", folder)
    (tmp_path / "new").rmdir()
    assert (folder / "said.json").is_file(), "nothing is deleted before the new one stands"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(files, "replace_folder", broken)
        tiny_video.save(*parts(), folder, {"said.json": {"of": "the second"}})
    assert json.loads((folder / "said.json").read_text()) == {"of": "the first"}
    tiny_video.save(*parts(), folder, {"said.json": {"of": "the third"}})
    assert json.loads((folder / "said.json").read_text()) == {"of": "the third"}
    assert [found.name for found in tmp_path.iterdir()] == ["model"]
