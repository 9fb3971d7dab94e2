"""Counter-based random numbers."""

from __future__ import annotations

import pytest
import torch

from worldsim import keys

# Random123's kat_vectors, threefry2x32 with 20 rounds: counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_threefry_gives_the_published_answers(
    counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    words = keys.threefry(
        (torch.tensor(key[0]), torch.tensor(key[1])), (torch.tensor(counter[0]), torch.tensor(counter[1]))
    )
    assert (int(words[0]), int(words[1])) == expected


@pytest.mark.parametrize("draw", [keys.normal, keys.uniform])
def test_a_row_does_not_depend_on_its_batch(draw) -> None:
    batch = keys.rows(0, 7)
    assert torch.equal(draw(batch, (3, 5))[4], draw(batch[4:5], (3, 5))[0])
    assert torch.equal(draw(batch.flip(0), (3, 5)), draw(batch, (3, 5)).flip(0))


def test_keys_of_rows_do_not_depend_on_their_number() -> None:
    assert torch.equal(keys.rows(3, 5), keys.rows(3, 9)[:5])
    assert torch.equal(keys.split(keys.rows(3, 2), 4), keys.split(keys.rows(3, 2), 6)[:, :4])


def test_a_longer_draw_begins_with_a_shorter_one() -> None:
    key = keys.rows(1, 2)
    assert torch.equal(keys.normal(key, (3, 2)), keys.normal(key, (5, 2))[:, :3])


def test_split_fold_and_noise_never_coincide() -> None:
    key = keys.rows(5, 4)
    derived = torch.cat([keys.split(key, 50).flatten(), *(keys.fold(key, i) for i in range(-50, 50)), key])
    assert derived.unique().numel() == derived.numel()
    assert torch.equal(keys.fold(key, 7), keys.fold(key, torch.full((4,), 7)))
    assert torch.equal(keys.fold(key, torch.arange(4))[2:3], keys.fold(key[2:3], 2))


def test_normal_numbers_have_the_moments_and_the_quantiles_of_a_normal() -> None:
    sample = keys.normal(keys.rows(0, 8), (50_000,)).double().flatten()
    count = sample.numel()
    assert abs(sample.mean()) < 4 / count**0.5
    assert abs(sample.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(sample.pow(4).mean() - 3) < 4 * (96 / count) ** 0.5
    cumulative = torch.special.ndtr(sample.sort().values)
    gap = (cumulative - torch.arange(1, count + 1) / count).abs().max()
    assert gap < 1.63 / count**0.5  # Kolmogorov-Smirnov, 1 %
    assert sample.isfinite().all()


def test_uniform_numbers_are_even_and_below_one() -> None:
    sample = keys.uniform(keys.rows(2, 8), (50_000,)).flatten()
    assert sample.min() >= 0 and sample.max() < 1
    counts = torch.histc(sample, bins=50, min=0, max=1)
    expected = sample.numel() / 50
    assert ((counts - expected).square() / expected).sum() < 76.2  # chi square with 49 degrees, 99.2 %


def test_neighbouring_keys_are_uncorrelated() -> None:
    noise = keys.normal(torch.arange(64), (4096,)).double()
    correlation = torch.corrcoef(noise) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 4096**0.5


def test_an_odd_count_and_an_empty_shape_are_served() -> None:
    key = keys.rows(0, 3)
    assert keys.normal(key, (3,)).shape == (3, 3)
    assert keys.uniform(key, ()).shape == (3,)
    assert keys.normal(key[:, None].expand(3, 2), (5,)).shape == (3, 2, 5)


def test_a_key_that_is_not_int64_is_refused() -> None:
    with pytest.raises(TypeError, match="int32"):
        keys.normal(torch.zeros(2, dtype=torch.int32), (1,))


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_numbers() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    key = keys.rows(0, 4)
    assert torch.equal(keys.split(key, 9), keys.split(key.cuda(), 9).cpu())
    assert torch.equal(keys.uniform(key, (1000,)), keys.uniform(key.cuda(), (1000,)).cpu())
    torch.testing.assert_close(keys.normal(key, (1000,)), keys.normal(key.cuda(), (1000,)).cpu(), rtol=2e-7, atol=1e-9)
