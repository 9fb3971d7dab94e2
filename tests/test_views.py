"""Several cameras as one panorama and proprioception as one more token: places, exactness, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parts import Encoder
from tests.small_world import (
    PER_STEP,
    SECONDS,
    SMALL,
    clips,
    look,
    small_adapter,
    small_model,
    small_predictor,
    small_spec,
)
from worldsim.adapters import dino_wm, full
from worldsim.backbones import dino_world
from worldsim.contracts.frozen import check_predictor
from worldsim.contracts.world_model import check_world_model
from worldsim.jobs.pretrain import videos
from worldsim.models.feature import FeatureModel
from worldsim.models.tokens import Frames, Proprioception, visual
from worldsim.models.window import WindowModel
from worldsim.nets.attention import Layout, rotary_angles, token_places

JOINTS = Proprioception(("elbow", "wrist", "grip"), (0.5, -1.0, 2.0), (2.0, 0.1, 1.0))
layouts = pytest.mark.parametrize(("views", "told"), [(2, None), (1, JOINTS), (2, JOINTS), (3, JOINTS)])


def actions(rows: int, steps: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, steps, PER_STEP, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def angles_before(times: Tensor, layout: Layout, head: int) -> Tensor:
    """The rotary angles as they were computed when a frame was one camera."""
    grid, count = layout.grid, head // 6
    periods = 10 ** torch.linspace(-2, 2, count, dtype=torch.float32)
    y, x = torch.meshgrid(torch.linspace(-1, 1, grid[0]), torch.linspace(-1, 1, grid[1]), indexing="ij")
    n = grid[0] * grid[1]
    place = torch.stack([x.flatten(), y.flatten()], -1)
    time = times.float()[..., None, None].expand(*times.shape, n, 1)
    positions = torch.cat([time, place.expand(*times.shape, n, 2)], -1)
    return (2 * math.pi * positions[..., None] / periods).flatten(-2)


def test_cameras_stand_side_by_side_and_proprioception_has_a_place_of_its_own() -> None:
    grid, device = (2, 3), torch.device("cpu")
    alone, places = token_places(Layout(grid), device), token_places(Layout(grid, 3, True), device)
    assert places.shape == (Layout(grid, 3, True).tokens, 2) == (19, 2)
    assert torch.equal(places[:6], alone), "the first camera stands where it stood alone"
    for v in (1, 2):
        assert torch.equal(places[6 * v : 6 * v + 6], alone + torch.tensor([2.5 * v, 0.0]))
    assert places[18].tolist() == [-4.0, -4.0]
    assert len({tuple(place) for place in places.tolist()}) == 19


def test_one_camera_alone_gives_the_bits_it_gave_before(monkeypatch: pytest.MonkeyPatch) -> None:
    features, times, action = clips()
    model, obs, future = small_model(heads=True), look(), actions(3, 5)
    key, past = torch.arange(3), torch.zeros(3, 2, PER_STEP, 2)

    def outcomes() -> list[Tensor]:
        rollout = model.rollout(model.encode(obs, past, key), future)
        forced = model.adapter.predict(model.predictor, features[:, :-1], times, action)
        return [forced, rollout.latents]

    now = outcomes()
    monkeypatch.setattr(dino_world, "rotary_angles", angles_before)
    assert all(torch.equal(a, b) for a, b in zip(now, outcomes(), strict=True))
    state = model.encode(obs, past, key)
    assert obs.video is not None and model.pixels is not None
    assert torch.equal(model.latent(state), model.encoder.encode(obs.video)[:, -1, 0])
    drawn = model.pixels(now[1].flatten(0, 1)).unflatten(0, (3, 5))[:, :, None]
    assert torch.equal(model.decode(state, now[1]), drawn)


def test_a_layout_has_no_weights_and_no_fingerprint() -> None:
    one, many = small_predictor(), small_predictor(views=3, told=True)
    assert one.fingerprint == many.fingerprint and one.state_dict().keys() == many.state_dict().keys()
    assert (one.tokens, many.tokens) == (4, 13)


@layouts
def test_a_predictor_of_several_views_keeps_the_contract(views: int, told: Proprioception | None) -> None:
    base = small_predictor(views=views, told=told is not None)
    features = torch.randn(3, 4, base.tokens, SMALL.width, generator=torch.Generator().manual_seed(0))
    times = clips()[1]
    check_predictor(base, features, times, small_predictor(7, views=views, told=told is not None))
    with pytest.raises(ValueError, match=rf"a frame has 6 tokens, and this predictor is laid out for {base.tokens}"):
        base.predict(features[:, :, :1].expand(-1, -1, 6, -1), times)


@layouts
def test_a_world_model_of_several_views_keeps_the_contract(views: int, told: Proprioception | None) -> None:
    model = small_model(heads=True, views=views, told=told)
    obs, past = look(3, 3, views=views, told=told), torch.zeros(3, 2, PER_STEP, 2)
    check_world_model(model, obs, past, actions(3, 4), torch.arange(3))
    check_world_model(WindowModel(model), obs, past, actions(3, 3), torch.arange(3))


@layouts
@pytest.mark.parametrize("context", [1, 3])
def test_a_cached_rollout_of_several_views_equals_one_without_a_cache(
    views: int, told: Proprioception | None, context: int
) -> None:
    model, future, frames = small_model(context, views=views, told=told), actions(3, 5), min(2, context)
    obs = look(3, frames, views=views, told=told)
    past = torch.zeros(3, frames - 1, PER_STEP, 2)
    imagined = model.rollout(model.encode(obs, past, torch.arange(3)), future).latents
    seen = model.see(obs)[0]
    for t in range(5):
        before = torch.cat([seen, imagined[:, :t]], 1)[:, -context:]
        times = (torch.arange(before.shape[1] + 1) * SECONDS).expand(3, -1)
        action = torch.zeros(3, before.shape[1], PER_STEP, 2)
        action[:, -1] = future[:, t]
        expected = model.adapter.predict(model.predictor, before, times, action)[:, -1]
        torch.testing.assert_close(imagined[:, t], expected, rtol=1e-4, atol=1e-4)
    again = WindowModel(model)
    window = again.rollout(again.encode(obs, past, torch.arange(3)), future).latents
    torch.testing.assert_close(window, imagined, rtol=1e-4, atol=1e-4)


def test_every_view_and_the_state_move_the_prediction_of_every_other() -> None:
    model, key = small_model(views=2, told=JOINTS), torch.arange(3)
    obs, none = look(3, 1, views=2, told=JOINTS), torch.zeros(3, 0, PER_STEP, 2)
    assert obs.video is not None and obs.state is not None
    plain = model.step(model.encode(obs, none, key), actions(3, 1)[:, 0]).latent
    left, right = obs.video.clone(), obs.video.clone()
    left[:, :, 0] *= -1
    right[:, :, 1] *= -1
    for changed in (replace(obs, video=left), replace(obs, video=right), replace(obs, state=obs.state + 1)):
        moved = (model.step(model.encode(changed, none, key), actions(3, 1)[:, 0]).latent - plain).abs().amax((0, 2))
        assert float(moved.min()) > 1e-4


def test_cameras_are_told_apart_by_where_they_stand() -> None:
    base = small_predictor(views=2)
    features = torch.randn(1, 1, 8, SMALL.width, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([[0.0, 0.5]])
    straight = base.predict(features, times)
    swapped = base.predict(features.roll(4, 2), times).roll(4, 2)
    assert float((straight - swapped).abs().amax()) > 1e-3


def test_each_camera_is_drawn_from_its_own_tokens() -> None:
    model = small_model(heads=True, views=2, told=JOINTS)
    state = model.encode(look(3, 1, views=2, told=JOINTS), torch.zeros(3, 0, PER_STEP, 2), torch.arange(3))
    latents = torch.randn(3, 2, 9, SMALL.width, generator=torch.Generator().manual_seed(0))
    video = model.decode(state, latents)
    assert video.shape == (3, 2, 2, 3, 8, 8)
    alone = small_model(heads=True)
    one = alone.encode(look(3, 1), torch.zeros(3, 0, PER_STEP, 2), torch.arange(3))
    for v in range(2):
        torch.testing.assert_close(video[:, :, v : v + 1], alone.decode(one, latents[:, :, 4 * v : 4 * v + 4]))
    assert torch.equal(visual(latents, 2, 4).flatten(2, 3), latents[:, :, :8])


def test_the_token_of_proprioception_counts_deviations_from_the_mean_and_is_filled_with_zeros() -> None:
    frames = Frames(JOINTS, 6)
    features, state = torch.randn(2, 5, 2, 4, 6), torch.tensor([2.5, -1.2, 2.0]).expand(2, 5, 3)
    tokens = frames(features, state)
    assert tokens.shape == (2, 5, 9, 6) and torch.equal(tokens[:, :, :8], features.flatten(2, 3))
    expected = torch.tensor([1.0, -2.0, 0.0, 0.0, 0.0, 0.0]).expand(2, 5, 6)
    torch.testing.assert_close(tokens[:, :, 8], expected)
    assert not list(frames.parameters()) and not frames.state_dict()


def test_a_missing_state_and_one_of_another_size_are_refused() -> None:
    model, none, key = small_model(views=2, told=JOINTS), torch.zeros(3, 2, PER_STEP, 2), torch.arange(3)
    obs = look(views=2, told=JOINTS)
    assert obs.state is not None
    with pytest.raises(ValueError, match=r"no state.*proprioception: give \[3, 3, 3\].*elbow, wrist, grip"):
        model.encode(replace(obs, state=None), none, key)
    with pytest.raises(ValueError, match=r"state of shape \[3, 3, 2\]"):
        model.encode(replace(obs, state=obs.state[..., :2]), none, key)
    blind, state = small_model(views=2), replace(obs, state=torch.randn(3, 3, 7))
    assert torch.equal(blind.see(state)[0], blind.see(replace(obs, state=None))[0]), "what is not due is not read"


def test_more_entries_than_a_token_holds_are_refused_with_the_remedy() -> None:
    many = Proprioception(tuple("abcdefg"), (0.0,) * 7, (1.0,) * 7)
    with pytest.raises(ValueError, match="has 7 entries, and one token holds 6: name at most 6 of them"):
        Frames(many, 6)
    with pytest.raises(ValueError, match="deviation above 0"):
        Proprioception(("a",), (0.0,), (0.0,))
    base, spec = small_predictor(), small_spec(3, False)
    with pytest.raises(ValueError, match=r"spec says \(5, 6\)"):
        FeatureModel(replace(spec, latent=(5, 6)), Encoder(), base, small_adapter(base))
    with pytest.raises(ValueError, match=r"spec.proprioception is 3, and the entries given are None"):
        FeatureModel(replace(spec, proprioception=3), Encoder(), base, small_adapter(base))


def test_adapters_with_a_trunk_of_their_own_take_the_layout_of_the_base() -> None:
    base, spec = small_predictor(views=2, told=True), small_spec(3, False, 2, JOINTS)
    small = dino_wm.Config(frames=3, hidden=12, depth=1, heads=2, head=4, mlp=8)
    for adapter in (
        dino_wm.build(small, base, spec.action, PER_STEP),
        full.build(full.Config(), base, spec.action, PER_STEP),
    ):
        model = FeatureModel(spec, Encoder(), base, adapter.eval(), proprioception=JOINTS).requires_grad_(False).eval()
        ready = WindowModel(model)
        obs, past = look(views=2, told=JOINTS), actions(3, 2, 7)
        assert ready.rollout(ready.encode(obs, past, torch.arange(3)), actions(3, 4)).latents.shape == (3, 4, 9, 6)


def test_pretraining_takes_each_camera_of_an_episode_as_a_video_of_its_own() -> None:
    offsets = np.array([0, 10, 25, 30])
    first, lengths = videos(offsets, (0, 2), 1)
    assert first.tolist() == [0, 25] and lengths.tolist() == [10, 5]
    first, lengths = videos(offsets, (0, 2), 2)
    assert first.tolist() == [0, 25, 30, 55] and lengths.tolist() == [10, 5, 10, 5]
    assert (first // 30).tolist() == [0, 0, 1, 1] and (first % 30).tolist() == [0, 25, 0, 25]


def test_angles_of_a_single_camera_do_not_depend_on_the_others() -> None:
    times = torch.tensor([[0.0, 0.7]])
    one, three = rotary_angles(times, Layout((2, 2)), 12), rotary_angles(times, Layout((2, 2), 3, True), 12)
    assert torch.equal(three[:, :, :4], one) and three.shape == (1, 2, 13, 6)
