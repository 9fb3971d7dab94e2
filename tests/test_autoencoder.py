"""The learner of autoencoders: what is small and moves counts, and a resumed training is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.contracts.learner import check_learner
from worldsim.learners import averaged
from worldsim.learners.autoencoder import (
    Architecture,
    AutoencoderLearner,
    Config,
    Pictures,
    build_autoencoder,
    pixel_weights,
    vary,
)

SMALL = Architecture(patch=2, channels=4, hidden=32, encoder_depth=2, decoder_depth=2, heads=2, window=4)
SIZE = 16


def dots(count: int, seed: int) -> Pictures:
    """A bright dot anywhere on a dark floor; the floor stands still."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.full((count, 3, SIZE, SIZE), -0.8)
    frames = still.clone()
    for row, (y, x) in enumerate(torch.randint(2, SIZE - 3, (count, 2), generator=generator).tolist()):
        frames[row, :, y : y + 2, x : x + 2] = torch.tensor([0.9, -0.2, 0.4])[:, None, None]
    return Pictures(frames, still)


def learner(steps: int = 40, precision: str = "float32") -> AutoencoderLearner:
    config = Config(
        SMALL,
        batch=8,
        varied=0.5,
        optimizer=averaged.Config(
            lr=5e-3,
            warmup=2,
            held_out_steps=20,
            precision=precision,  # type: ignore[arg-type]
        ),
    )
    torch.manual_seed(0)
    return AutoencoderLearner(config, build_autoencoder(SMALL), lambda s: dots(8, s), steps, dots(8, 10_000))


def test_a_small_dot_weighs_as_much_as_the_whole_picture() -> None:
    still = torch.zeros(1, 3, 64, 64)
    frames = still.clone()
    frames[:, 0, 20:23, 30:33] = 1.0
    weights = pixel_weights(frames, still, moving=1.0, detail=0.0)
    near = weights[0, 0, 18:25, 28:35].sum() - 49 / 64**2
    assert 0.8 < float(near) <= 1.0 and 1.8 < float(weights.sum()) <= 2.0
    assert torch.allclose(weights[0, 0, :18], torch.tensor(1 / 64**2))
    large = still.clone()
    large[:, 0, 20:40, 30:50] = 1.0
    ratio = weights[0, 0, 21, 31] / pixel_weights(large, still, 1.0, 0.0)[0, 0, 30, 40]
    assert ratio > 10  # each pixel of something small counts for more


def test_what_rests_is_found_by_its_detail_and_what_is_plain_or_rounded_is_not() -> None:
    still = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(pixel_weights(still + 0.03, still, 1.0, 1.0), torch.tensor(1 / 64**2))
    rests = still.clone()
    rests[:, 1, 40:42, 10:12] = 1.0
    weights = pixel_weights(rests, rests, moving=1.0, detail=1.0)
    assert float(weights[0, 0, 38:44, 8:14].sum()) > 0.3 > float(weights[0, 0, :32, 32:].sum())


def test_varied_pictures_are_mirrored_and_recoloured_together_with_what_stands_still() -> None:
    plain = Pictures(torch.rand(6, 3, 8, 8), torch.zeros(6, 3, 8, 8))
    twins = Pictures(plain.frames, plain.frames)
    new = vary(twins, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(new.frames, new.still) and not torch.equal(new.frames, plain.frames)
    assert torch.equal(new.frames.flatten(1).sort(1).values, plain.frames.flatten(1).sort(1).values)
    assert torch.equal(vary(plain, 0.0, torch.Generator().manual_seed(0)).frames, plain.frames)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_keeps_the_contract_of_a_learner(precision: str) -> None:
    check_learner(lambda: learner(precision=precision))


def test_training_lowers_the_loss_and_the_average_follows() -> None:
    one = learner()
    start = one.judge()["held_out/weighted"]
    losses: list[float] = []
    for step in range(40):
        torch.manual_seed(step)
        found = one.update(one.batch(step), step)
        losses.append(found["loss"])
        assert ("held_out/l1" in found) == ((step + 1) % 20 == 0)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:2])
    assert one.judge()["held_out/weighted"] < 0.7 * start


def test_the_weights_of_training_are_kept_in_float32_beside_a_working_copy() -> None:
    one = learner(precision="bfloat16")
    one.update(one.batch(0), 0)
    kinds: set[torch.dtype] = {value.dtype for value in one.state_dict().values() if value.is_floating_point()}
    assert torch.bfloat16 not in kinds and next(one.weights.work.fast.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"batch": 0}, "batch"), ({"kl": -1.0}, "kl"), ({"varied": 1.5}, "varied")],
)
def test_numbers_that_no_training_can_have_are_refused(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Config(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of heads"):
        Architecture(hidden=30, heads=4)
    with pytest.raises(ValueError, match="window is 0"):
        Architecture(window=0)


def test_pictures_of_any_size_that_windows_divide_go_through() -> None:
    torch.manual_seed(0)
    network = build_autoencoder(SMALL).eval()
    pictures = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = network.encode(pictures).latent_dist.mode()
    assert latents.shape == (2, 4, 8, 12) and network.decode(latents).sample.shape == pictures.shape
    with pytest.raises(ValueError, match="pictures are 20 x 16, multiples of 8 are taken"):
        network.encode(torch.zeros(1, 3, 20, 16))


def test_windows_see_each_other_where_they_are_shifted() -> None:
    torch.manual_seed(0)
    network = build_autoencoder(SMALL).eval()
    pictures = torch.zeros(1, 3, 16, 16, requires_grad=True)
    network.encode(pictures).latent_dist.mode()[0, :, 3, 3].sum().backward()
    assert pictures.grad is not None
    felt = pictures.grad[0].abs().sum(0)
    assert float(felt[:8, :8].sum()) > 0 and float(felt[8:, 8:].sum()) > 0, "the next window is seen, too"


@pytest.mark.parametrize("name", ["lr", "clip", "held_out_steps"])
def test_the_optimiser_refuses_them_too(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, it must be"):
        averaged.Config(**{name: 0})  # type: ignore[arg-type]
    for other, value in (("warmup", -1), ("weight_decay", float("nan")), ("ema", 1.5)):
        with pytest.raises(ValueError, match=f"{other} is {value}"):
            averaged.Config(**{other: value})  # type: ignore[arg-type]
