"""I3D is the published network, tensor by tensor, and FVD the distance of its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.dot_films import task
from tests.test_evaluate_video import films, model  # noqa: F401
from worldsim import frechet
from worldsim.backbones import i3d
from worldsim.jobs import evaluate_video, video_page, video_results
from worldsim.jobs.video_results import COPY_LAST, RANDOM_INIT, ROUND_TRIP, SAMPLES

THIN = 16  # times fewer channels than the published widths
WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 32, 64, 64),
    "Mixed_4d": (128, 128, 256, 32, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def unit(taken: int, given: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    made = nn.Sequential()
    made.add_module("conv3d", nn.Conv3d(taken, given, kernel, stride, bias=False))
    made.add_module("bn", nn.BatchNorm3d(given, eps=0.001))
    return made


class Published(nn.Module):
    """The modules of the paper's figure 3, with the names of the port, and pads written out for clips of 9 frames."""

    def __init__(self) -> None:
        super().__init__()
        first, third = 64 // THIN, 192 // THIN
        self.Conv3d_1a_7x7 = unit(3, first, 7, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = unit(first, first), unit(first, third, 3)
        taken = third
        for name, wide in WIDTHS.items():
            a, b, c, d, e, f = (max(1, width // THIN) for width in wide)
            branches = {"b0": unit(taken, a), "b1a": unit(taken, b), "b1b": unit(b, c, 3)}
            branches |= {"b2a": unit(taken, d), "b2b": unit(d, e, 3), "b3b": unit(taken, f)}
            self.add_module(name, nn.ModuleDict(branches))
            taken = a + c + e + f
        self.logits = nn.Sequential()
        self.logits.add_module("conv3d", nn.Conv3d(taken, 10, 1))

    def run(self, name: str, x: Tensor, pad: tuple[int, ...] = ()) -> Tensor:
        return F.relu(self.get_submodule(name)(F.pad(x, pad) if pad else x))

    def mixed(self, name: str, x: Tensor) -> Tensor:
        around = (1,) * 6
        two = self.run(f"{name}.b1b", self.run(f"{name}.b1a", x), around)
        three = self.run(f"{name}.b2b", self.run(f"{name}.b2a", x), around)
        four = self.run(f"{name}.b3b", F.max_pool3d(x, 3, 1, padding=1))
        return torch.cat([self.run(f"{name}.b0", x), two, three, four], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run("Conv3d_1a_7x7", x, (2, 3, 2, 3, 3, 3))  # 224 -> 112 px, 9 -> 5 frames
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))  # 56
        x = self.run("Conv3d_2c_3x3", self.run("Conv3d_2b_1x1", x), (1,) * 6)
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))  # 28
        for name in WIDTHS:
            if name == "Mixed_4b":
                x = F.max_pool3d(F.pad(x, (0, 1, 0, 1, 1, 1)), 3, 2)  # 14 px, 5 -> 3 frames
            if name == "Mixed_5b":
                x = F.max_pool3d(F.pad(x, (0, 0, 0, 0, 0, 1)), 2, 2)  # 7 px, 3 -> 2 frames
            x = self.mixed(name, x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1)).flatten(1)


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(0)
    network = Published().eval()
    for name, value in network.named_buffers():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5 if name.endswith("var") else 0.1 * torch.randn(value.shape))
    return network


@pytest.fixture(scope="module")
def weights(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file({name: value.contiguous() for name, value in published.state_dict().items()}, file)
    return file


def test_it_is_the_published_network(published: Published, weights: Path) -> None:
    video = torch.rand(2, 9, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        theirs = published(video.transpose(1, 2))
    torch.testing.assert_close(i3d.I3D(weights)(video), theirs, rtol=1e-4, atol=1e-5)
    assert float(theirs.std(0).mean()) > 0, "logits tell clips apart"


def test_small_pictures_are_scaled_and_long_clips_averaged_over_time(weights: Path) -> None:
    small = torch.rand(1, 17, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    large = F.interpolate(small[0], (224, 224), mode="bilinear")[None]
    network = i3d.I3D(weights)
    torch.testing.assert_close(network(small), network(large), rtol=1e-4, atol=1e-5)
    assert network(small).shape == (1, 10)
    with pytest.raises(ValueError, match="clips have 8 frames; I3D needs 9"):
        network(small[:, :8])


def test_odd_zeros_come_behind() -> None:
    for size in (5, 6, 7, 8):
        for k, s in ((7, 2), (3, 2), (3, 1), (2, 2), (1, 1)):
            padded = i3d.same(torch.ones(1, size, size, size), (k, k, k), (s, s, s))
            assert (padded.shape[1] - k) // s + 1 == -(-size // s)
            before, kept = int(padded[0].sum((1, 2)).argmax()), int((padded[0].sum((1, 2)) > 0).sum())
            assert kept == size and 0 <= padded.shape[1] - size - 2 * before <= 1
    assert i3d.same(torch.ones(1, 4, 4, 4), (1, 1, 3), (1, 1, 2))[0, 0, 0].tolist() == [1, 1, 1, 1, 0]
    assert i3d.same(torch.ones(1, 4, 4, 5), (1, 1, 3), (1, 1, 2))[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_weights_that_are_none_are_told(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(FileNotFoundError, match="FVD needs the weights of I3D as safetensors"):
        i3d.I3D(tmp_path / "none")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04 a pickle, which is never opened")
    with pytest.raises(ValueError, match="is no safetensors file"):
        i3d.I3D(tmp_path / "pickle.pt")
    save_file({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(4, 3, 7, 7, 7)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks 286 tensors of I3D \(Conv3d_2b_1x1.conv3d.weight"):
        i3d.I3D(tmp_path / "part.safetensors")


@pytest.mark.parametrize("count", [12, 60])
def test_the_distance_in_full_is_that_of_the_covariances(count: int) -> None:
    made = np.random.default_rng(0)
    one, two = made.normal(size=(count, 20)), 1.5 * made.normal(size=(count, 20)) + 0.3
    episode = np.repeat(np.arange(count // 4), 4)
    found = frechet.in_full(one, two, episode)
    plain = frechet.distance(one.mean(0), np.cov(one.T), two.mean(0), np.cov(two.T))
    assert found.value == pytest.approx(float(plain), rel=1e-6)
    assert frechet.in_full(one, one, episode).value == pytest.approx(0, abs=1e-9)
    assert frechet.in_full(one, one + 2, episode).value == pytest.approx(4 * 20)
    low, high = found.interval
    assert low < found.value < high
    with pytest.raises(ValueError, match="2 or more"):
        frechet.in_full(one[:1], two[:1], episode[:1])


def test_an_evaluation_with_weights_tells_fvd_or_why_not(films: Path, model: Path, weights: Path) -> None:  # noqa: F811
    asked = task(films, model, frames=9, fvd=weights, episodes=4, random_init=True, components=1)
    found = evaluate_video.evaluate(asked)
    values = video_results.summary(found)
    assert found.fvd is not None and set(found.fvd.names) == {SAMPLES, COPY_LAST, RANDOM_INIT, ROUND_TRIP}
    assert values["video.fvd_clips"] == 4 and "FVD" not in values["video.skipped"]
    assert 0 <= values["video.fvd_samples_low"] <= values["video.fvd_samples"] <= values["video.fvd_samples_high"]
    assert "FVD" in [section.title for section in video_page.sections(found)]
    short = evaluate_video.evaluate(task(films, model, fvd=weights, episodes=4))
    assert short.fvd is None and "clips have 5 frames" in dict((s.measure, s.reason) for s in short.skipped)["FVD"]
