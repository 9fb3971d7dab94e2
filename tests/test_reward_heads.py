"""Reward and continuation heads: what they learn, from which steps, and how a world model uses them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parts import Encoder
from tests.small_world import PER_STEP, SMALL, clips, look, small_adapter, small_model, small_predictor, small_spec
from worldsim import keys
from worldsim.contracts.learner import check_learner
from worldsim.contracts.world_model import check_world_model
from worldsim.heads import continuation, reward
from worldsim.learners import heads as heads_learner
from worldsim.learners.heads import FrameTable, Heads, HeadsLearner
from worldsim.learners.transitions import Outcomes, Transitions
from worldsim.models.feature import FeatureModel

N, D, A, STEP = 2, 3, 1, 2
CONFIG = heads_learner.Config(batch=64, distance_batch=4, lr=5e-3, warmup=5, precision="float32")


def table(episodes: int = 40, length: int = 9, seed: int = 0) -> FrameTable:
    """A point on a line that actions move: the reward is where it arrives, and beyond 1 the episode terminates."""
    rng = np.random.default_rng(seed)
    features, actions, rewards, dones, lengths = [], [], [], [], []
    for _ in range(episodes):
        place, places, moves = 0.0, [0.0], []
        while len(places) < length and place < 1:
            moves.append(rng.uniform(-0.2, 0.8))
            place += moves[-1]
            places.append(place)
        rewards += [*places[1:], 9.0]  # what stands in the last row is never read
        dones += [*(p >= 1 for p in places[1:]), True]
        actions += [*moves, 9.0]
        features += [np.stack([np.full(D, p), rng.normal(size=D)]) for p in places]
        lengths.append(len(places))
    size = np.array(lengths)
    outcomes = Outcomes(np.array(actions, np.float32)[:, None], np.array(rewards, np.float32), np.array(dones))
    frames = np.array(features, np.float16)[:, None]
    shown = np.zeros(1, np.int64)
    return FrameTable(frames, size.cumsum() - size, size, None, shown, np.zeros((1, 1, 8, 8, 3), np.uint8), outcomes)


def learner(steps: int = 20, config: heads_learner.Config = CONFIG) -> HeadsLearner:
    torch.manual_seed(0)
    one = reward.build(reward.Config(32), N, D, STEP * A)
    other = continuation.build(continuation.Config(32), N, D, STEP * A)
    return HeadsLearner(config, Heads(None, None, None, one, other), table(), STEP, steps)


def test_the_learner_of_rewards_and_ends_keeps_the_contract() -> None:
    check_learner(lambda: learner())


def test_a_transition_sums_its_rewards_and_never_leaves_its_episode() -> None:
    data = table(6)
    known = Transitions(data.outcomes, data.first, data.lengths, STEP)  # pyright: ignore[reportArgumentType]
    assert len(known.row) == sum(max(0, length - STEP) for length in data.lengths)
    place = data.features[:, 0, 0, 0].astype(np.float32)
    np.testing.assert_allclose(known.reward, place[known.row + 1] + place[known.row + 2], atol=1e-2)
    np.testing.assert_array_equal(known.done, place[known.row + 2] >= 1)
    assert 0 < known.rate < 1 and not (known.outcomes.action[known.steps] == 9).any()


def test_batches_have_many_ends_and_weigh_them_as_few() -> None:
    made = learner()
    known = made.transitions
    assert known is not None
    batches = [made.batch(step).moves for step in range(100)]
    done = torch.stack([batch.done for batch in batches if batch is not None]).float()
    weight = torch.stack([batch.weight for batch in batches if batch is not None])
    gains = torch.stack([batch.reward for batch in batches if batch is not None])
    assert done.mean() == 0.25 and weight.mean() == pytest.approx(1, abs=1e-5)
    assert (done * weight).mean() == pytest.approx(known.rate, abs=1e-5)
    assert (gains * weight).mean() == pytest.approx(known.reward.mean(), abs=0.05)


def test_rewards_and_ends_are_learned_from_what_a_step_changes() -> None:
    made = learner(300)
    for step in range(300):
        made.update(made.batch(step), step)
    unseen = table(20, seed=1)
    known = Transitions(unseen.outcomes, unseen.first, unseen.lengths, STEP)  # pyright: ignore[reportArgumentType]
    latent, after = (torch.from_numpy(unseen.features[known.row + k, 0].astype(np.float32)) for k in (0, STEP))
    action = torch.from_numpy(known.outcomes.action[known.steps])
    heads = made.heads
    assert heads.reward is not None and heads.continuation is not None
    with torch.no_grad():
        found = heads.reward(latent, action, after).numpy()
        chance = heads.continuation(latent, action, after).numpy()
    assert np.square(found - known.reward).mean() < 0.1 * known.reward.var()
    assert chance[known.done].mean() > 0.7 > 0.2 > chance[~known.done].mean()
    assert chance.mean() == pytest.approx(known.rate, abs=0.08), "probabilities, not scores"


def test_the_continuation_head_begins_at_the_usual_rate() -> None:
    made = learner()
    head, known = made.heads.continuation, made.transitions
    assert head is not None and known is not None
    latent = torch.randn(5, N, D)
    np.testing.assert_allclose(head(latent, torch.zeros(5, STEP, A), latent).detach(), known.rate, atol=1e-5)


def test_a_reward_that_never_changes_is_predicted_as_it_is() -> None:
    head = reward.build(reward.Config(4), N, D, A)
    head.fit_scale(torch.full((7,), 3.0))
    state = head.state_dict()
    assert float(state["center"]) == 3 and float(state["scale"]) == 1


def test_episodes_shorter_than_a_step_and_missing_outcomes_are_named() -> None:
    data = table(3)
    with pytest.raises(ValueError, match="no episode has a model step of 50 actions.*--actions-per-step"):
        Transitions(data.outcomes, data.first, data.lengths, 50)  # pyright: ignore[reportArgumentType]
    heads = Heads(None, None, None, reward.build(reward.Config(4), N, D, STEP))
    with pytest.raises(ValueError, match="the table has none"):
        HeadsLearner(CONFIG, heads, replace(data, outcomes=None), STEP, 5)


def rewarding() -> FeatureModel:
    base = small_predictor()
    torch.manual_seed(0)
    one = reward.build(reward.Config(8), 4, SMALL.width, PER_STEP * 2)
    other = continuation.build(continuation.Config(8), 4, SMALL.width, PER_STEP * 2)
    spec = replace(small_spec(3, False), reward=True, done=True)
    model = FeatureModel(spec, Encoder(), base, small_adapter(base), reward=one, continuation=other)
    return model.requires_grad_(False).eval()


def test_a_feature_model_with_these_heads_keeps_the_contract_of_world_models() -> None:
    _, _, past = clips(3, 3)
    _, _, future = clips(3, 5, seed=1)
    check_world_model(rewarding(), look(), past, future, keys.rows(0, 3))


def test_reward_and_end_are_those_of_the_transition() -> None:
    model = rewarding()
    _, _, future = clips(3, 3, seed=1)
    state = model.encode(look(), future[:, :0], keys.rows(0, 3))
    step = model.step(state, future[:, 0])
    assert model.reward is not None and model.continuation is not None
    torch.testing.assert_close(step.reward, model.reward(state.latent, future[:, 0], step.latent))
    torch.testing.assert_close(step.done, model.continuation(state.latent, future[:, 0], step.latent))
    plain = small_model().step(state, future[:, 0])
    assert plain.reward is None and plain.done is None


def test_a_spec_that_promises_what_no_head_gives_is_refused() -> None:
    base = small_predictor()
    with pytest.raises(ValueError, match="spec.reward is True.*must agree"):
        FeatureModel(replace(small_spec(3, False), reward=True), Encoder(), base, small_adapter(base))
