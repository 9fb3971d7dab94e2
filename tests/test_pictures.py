"""Likeness of pictures: exact cases, and equality with outside implementations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from worldsim.backbones.lpips import Lpips
from worldsim.jobs.pictures import squared_error, ssim


def pictures(seed: int, side: int = 40) -> Tensor:
    return torch.rand(3, 3, side, side + 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_squared_errors_are_of_values_from_0_to_1() -> None:
    black = torch.full((2, 4, 3, 8, 8), -1.0)
    assert squared_error(black, -black).tolist() == [[1.0] * 4] * 2
    assert squared_error(black, black + 1).tolist() == [[0.25] * 4] * 2


def test_ssim_has_its_closed_form_for_flat_pictures_and_that_of_an_outside_implementation() -> None:
    low, high = torch.full((1, 3, 16, 16), -0.6), torch.full((1, 3, 16, 16), 0.2)  # 0.2 and 0.6
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(ssim(low, high)) == pytest.approx(expected, rel=1e-6)
    one, two = pictures(0), (pictures(0) + 0.3 * pictures(1)).clamp(-1, 1)
    torch.testing.assert_close(ssim(one, one), torch.ones(3, dtype=torch.float64))
    functional = pytest.importorskip("torchmetrics.functional.image")
    theirs = functional.structural_similarity_index_measure(
        (two.double() + 1) / 2, (one.double() + 1) / 2, data_range=1.0, reduction="none", sigma=1.5, kernel_size=11
    )
    torch.testing.assert_close(ssim(one, two), theirs, rtol=0.02, atol=0)  # it counts the padded border as well
    with pytest.raises(ValueError, match="SSIM needs 11 pixels"):
        ssim(pictures(0, 8), pictures(1, 8))


def test_lpips_is_that_of_the_package_with_the_same_weights(tmp_path: Path) -> None:
    outside = pytest.importorskip("torchmetrics.functional.image.lpips")
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = outside._LPIPS(pretrained=False, net="alex", pnet_rand=True)
    state = {name: value.abs() if name.startswith("lin") else value for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    file = tmp_path / "lpips.safetensors"
    save_file({name: value.contiguous() for name, value in state.items() if not name.startswith("lins")}, file)
    ours, one, two = Lpips(file), pictures(0, 64), pictures(1, 64)
    torch.testing.assert_close(ours(one, two), theirs(one, two).flatten(), rtol=1e-4, atol=1e-7)
    assert ours(one, one).tolist() == [0, 0, 0] and bool((ours(one, two) > 0).all())
    with pytest.raises(ValueError, match="LPIPS needs 31 pixels"):
        ours(pictures(0, 16), pictures(1, 16))


def test_weights_of_lpips_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="LPIPS needs the weights of LPIPS with AlexNet"):
        Lpips(tmp_path / "none")
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04 a pickle, which is never opened")
    with pytest.raises(ValueError, match="is no safetensors file"):
        Lpips(tmp_path / "pickle.pth")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"lacks 15 tensors of LPIPS with AlexNet \(net.slice1.0.weight"):
        Lpips(tmp_path / "other.safetensors")
