"""Reduced features: principal components as numpy finds them, and tokens that keep where things are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parts import Encoder
from worldsim.backbones.reduced import ReducedEncoder, Reduction, fit_reduction, load_reduction, save_reduction
from worldsim.contracts.frozen import check_encoder


def features(count: int = 400, width: int = 6) -> Tensor:
    """Correlated features with a mean of their own."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mix + torch.arange(width)


def reduction(factor: int = 2, rank: int = 3, whiten: float = 0.5) -> Reduction:
    return fit_reduction(features(), rank, factor, Encoder().fingerprint, whiten)


def test_it_keeps_the_contract_of_an_encoder() -> None:
    encoder, video = Encoder(), torch.rand(2, 2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    other = replace(reduction(), basis=reduction().basis * 1.01)
    reduced = ReducedEncoder(encoder, reduction())
    check_encoder(reduced, video, ReducedEncoder(encoder, other))
    assert (reduced.grid, reduced.width) == ((1, 1), 12)


@pytest.mark.parametrize("rank", [2, 6])
def test_the_components_keep_the_variance_that_numpys_svd_finds(rank: int) -> None:
    x = features().double().numpy()
    centred = x - x.mean(0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2 / len(x)
    fitted = reduction(rank=rank, whiten=0.0)
    short = (features() - fitted.mean) @ fitted.basis
    variance = short.double().var(0, correction=0).numpy()
    np.testing.assert_allclose(variance, values[:rank] / values[:rank].mean(), rtol=1e-4)
    q, _ = torch.linalg.qr(fitted.basis.double())
    kept = float((torch.from_numpy(centred) @ q).pow(2).sum(1).mean())
    assert kept == pytest.approx(values[:rank].sum(), rel=1e-5)


def test_whitening_makes_all_components_equal() -> None:
    short = (features() - reduction(whiten=1.0).mean) @ reduction(whiten=1.0).basis
    torch.testing.assert_close(torch.cov(short.T, correction=0), torch.eye(3), rtol=1e-3, atol=1e-3)


def test_entries_have_unit_variance_on_average_however_much_is_whitened() -> None:
    for whiten in (0.0, 0.5, 1.0):
        fitted = reduction(whiten=whiten)
        variance = ((features() - fitted.mean) @ fitted.basis).var(0, correction=0)
        assert float(variance.mean()) == pytest.approx(1.0, rel=1e-4)


class Ramp(torch.nn.Module):
    """Patch features that say where they are: (row, column) on a 4 x 6 grid."""

    grid = (4, 6)
    width = 2
    fingerprint = "ramp"

    def encode(self, video: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        place = torch.stack([rows, columns], -1).flatten(0, 1)
        return place.expand(*video.shape[:3], 24, 2)


def test_neighbouring_patches_share_a_token_in_reading_order() -> None:
    identity = Reduction(torch.zeros(2), torch.eye(2), 2, "ramp")
    encoder = ReducedEncoder(Ramp(), identity)
    tokens = encoder.encode(torch.zeros(1, 1, 1, 3, 8, 8))[0, 0, 0]
    assert encoder.grid == (2, 3) and tokens.shape == (6, 8)
    for token in range(6):
        y, x = divmod(token, 3)
        expected = [[2 * y + dy, 2 * x + dx] for dy in range(2) for dx in range(2)]
        assert tokens[token].tolist() == sum(expected, [])


def test_a_factor_of_one_changes_the_width_alone() -> None:
    encoder = ReducedEncoder(Ramp(), Reduction(torch.zeros(2), torch.eye(2)[:, :1], 1, "ramp"))
    assert (encoder.grid, encoder.width) == ((4, 6), 1)


def test_the_reduction_of_another_encoder_is_refused_naming_both() -> None:
    other = Encoder(seed=1)
    with pytest.raises(ValueError, match=f"{reduction().encoder}, not to {other.fingerprint}"):
        ReducedEncoder(other, reduction())


def test_a_factor_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) tokens is not divisible by the factor 3"):
        ReducedEncoder(Encoder(), reduction(factor=3))


def test_more_components_than_features_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 7 is above the width 6"):
        reduction(rank=7)


def test_a_saved_reduction_comes_back(tmp_path: Path) -> None:
    fitted = reduction()
    save_reduction(fitted, tmp_path / "new")
    again = load_reduction(tmp_path / "new")
    assert torch.equal(again.mean, fitted.mean) and torch.equal(again.basis, fitted.basis)
    assert (again.factor, again.encoder) == (fitted.factor, fitted.encoder)
    assert ReducedEncoder(Encoder(), again).fingerprint == ReducedEncoder(Encoder(), fitted).fingerprint
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["reduction.safetensors"]


def test_a_folder_without_a_reduction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no reduction\.safetensors"):
        load_reduction(tmp_path)
