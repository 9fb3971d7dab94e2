"""DINO-world: published sizes, rotary places in closed form, a causal mask, and caching that is exact."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small_world import SMALL, clips, small_predictor
from worldsim.backbones import dino_world
from worldsim.backbones.dino_world import Architecture, DinoWorld, FrozenDinoWorld, Memory
from worldsim.contracts.frozen import check_predictor
from worldsim.nets.attention import Layout, rotary_angles, rotate


def test_it_keeps_the_contract_of_a_frozen_predictor() -> None:
    features, times, _ = clips()
    check_predictor(small_predictor(), features[:, :-1], times, small_predictor(7))


@pytest.mark.parametrize(
    ("hidden", "depth", "heads", "millions"),
    [(768, 12, 12, 86.2), (1024, 24, 16, 303.9), (1536, 40, 24, 1136.0)],
    ids=["base", "large", "giant"],
)
def test_the_sizes_are_the_published_ones(hidden: int, depth: int, heads: int, millions: float) -> None:
    with torch.device("meta"):
        model = DinoWorld(Architecture(768, hidden, depth, heads, grid=(16, 16)))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


def test_rotary_angles_are_two_pi_position_over_period() -> None:
    times, grid, head = torch.tensor([[0.0, 0.25], [1.5, 2.0]]), (2, 3), 20
    angles = rotary_angles(times, Layout(grid), head)
    assert angles.shape == (2, 2, 6, 9)  # 20 // 6 = 3 periods an axis
    for b in range(2):
        for t in range(2):
            for token in range(6):
                row, column = divmod(token, 3)
                place = (float(times[b, t]), -1 + 2 * column / 2, -1 + 2 * row / 1)
                for axis in range(3):
                    for p in range(3):
                        period = 10.0 ** (-2 + 4 * p / 2)
                        expected = 2 * math.pi * place[axis] / period
                        got = float(angles[b, t, token, 3 * axis + p])
                        assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_grid_of_one_row_lies_in_the_middle() -> None:
    assert float(rotary_angles(torch.zeros(1), Layout((1, 1)), 12).abs().max()) == 0.0


def test_rotate_turns_pairs_as_complex_numbers_and_leaves_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 2, 14, dtype=torch.float64, generator=generator)  # head 14: 2 periods an axis, 2 left over
    angles = torch.rand(1, 2, 6, dtype=torch.float64, generator=generator) * 7
    turned = rotate(x, angles)
    for s in range(2):
        for axis in range(3):
            for p in range(2):
                first, second = 4 * axis + p, 4 * axis + 2 + p
                number = complex(x[0, 0, s, first], x[0, 0, s, second])
                angle = float(angles[0, s, 2 * axis + p])
                number *= complex(math.cos(angle), math.sin(angle))
                got = complex(turned[0, 0, s, first], turned[0, 0, s, second])
                assert abs(got - number) < 1e-12
    assert torch.equal(turned[..., 12:], x[..., 12:])


def test_only_differences_of_time_matter() -> None:
    features, times, _ = clips()
    model = small_predictor()
    here, later = model.predict(features[:, :-1], times), model.predict(features[:, :-1], times + 2.0)
    torch.testing.assert_close(later, here, rtol=1e-3, atol=1e-3)


def test_a_variable_frame_rate_changes_what_is_predicted() -> None:
    features, times, _ = clips()
    model = small_predictor()
    gap = model.predict(features[:, :-1], times) - model.predict(features[:, :-1], times * 1.7)
    assert float(gap.abs().mean()) > 0.01


def test_no_prediction_sees_a_later_frame_and_all_see_every_earlier_one() -> None:
    features, times, _ = clips(frames=5)
    model, seen = small_predictor(), features[:, :-1]
    plain = model.predict(seen, times)
    for t in range(4):
        other = seen.clone()
        other[:, t] += 1.0
        moved = (model.predict(other, times) - plain).abs().amax((0, 2, 3))  # by predicted frame
        assert float(moved[:t].max() if t else torch.zeros(())) < 1e-6
        assert float(moved[t:].min()) > 1e-4


def remembered(model: FrozenDinoWorld, features: torch.Tensor, times: torch.Tensor) -> list[Memory]:
    return [model.remember(features[:, t : t + 1], times[:, t : t + 1]) for t in range(features.shape[1])]


def test_querying_what_is_remembered_equals_teacher_forcing() -> None:
    features, times, _ = clips(frames=5)
    model = small_predictor()
    forced = model.predict(features[:, :-1], times)
    memories = remembered(model, features, times)
    for t in range(4):
        asked = model.query_frame(memories[: t + 1], times[:, t + 1])
        torch.testing.assert_close(asked, forced[:, t], rtol=1e-4, atol=1e-4)
    together = model.remember(features[:, :4], times[:, :4])
    torch.testing.assert_close(model.query_frame([together], times[:, 4]), forced[:, 3], rtol=1e-4, atol=1e-4)


def test_a_memory_of_fewer_rows_is_shared_by_neighbouring_rows() -> None:
    features, times, _ = clips(rows=6, frames=4)
    model = small_predictor()
    roots, shared_times = features[::3, :2], times[::3, :2]  # 2 roots of 3 branches each
    own = model.remember(features[:, 2:3], times[:, :1] + 5.0)
    wide = model.remember(roots.repeat_interleave(3, 0), shared_times.repeat_interleave(3, 0))
    query = times[:, 3] + 6.0
    expected = model.query_frame([wide, own], query)
    got = model.query_frame([model.remember(roots, shared_times), own], query)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_hook_enters_query_frame_as_it_enters_predict() -> None:
    features, times, _ = clips(frames=3)
    model = small_predictor()

    def hook(level: int, q: torch.Tensor) -> torch.Tensor:
        return q + (level + 1) * torch.linspace(-1, 1, q.shape[-1])

    forced = model.predict(features[:, :2], times, hook)
    asked = model.query_frame(list(remembered(model, features[:, :2], times)), times[:, 2], hook)
    torch.testing.assert_close(asked, forced[:, 1], rtol=1e-4, atol=1e-4)
    assert float((forced - model.predict(features[:, :2], times)).abs().mean()) > 0.01


def test_times_that_do_not_fit_the_frames_are_refused() -> None:
    features, times, _ = clips(frames=4)
    with pytest.raises(ValueError, match=r"times have shape \(3, 3\); 3 frames need \(3, 4\)"):
        small_predictor().predict(features[:, :3], times[:, :3])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden 24 is no multiple of heads 5"):
        DinoWorld(replace(SMALL, heads=5))


def test_a_saved_predictor_comes_back_with_its_fingerprint(tmp_path: Path) -> None:
    model = small_predictor(3)
    model.save(tmp_path)
    again = dino_world.build(dino_world.Config(str(tmp_path)))
    assert again.fingerprint == model.fingerprint and again.architecture == SMALL
    features, times, _ = clips()
    assert torch.equal(again.predict(features[:, :-1], times), model.predict(features[:, :-1], times))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_random_weights_are_others_but_the_same_each_time(tmp_path: Path) -> None:
    model = small_predictor(3)
    model.save(tmp_path)
    one, two = (dino_world.build(dino_world.Config(str(tmp_path), random_init=True)) for _ in range(2))
    assert one.fingerprint == two.fingerprint != model.fingerprint


def test_a_fingerprint_changes_with_the_configuration_alone() -> None:
    one = small_predictor()
    two = FrozenDinoWorld(replace(SMALL, grid=(1, 4)))
    two.load_state_dict(one.state_dict())
    assert one.fingerprint != two.fingerprint


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}), encoding="utf-8")
    with pytest.raises(ValueError, match="holds no dino_world model"):
        dino_world.build(dino_world.Config(str(tmp_path)))


def test_a_hub_name_without_a_network_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match="nobody/no-such-predictor.*network.*tiny-dino-world"):
        dino_world.build(dino_world.Config("nobody/no-such-predictor"))
