"""Coverage on held-out episodes: what is calibrated holds, an overconfident scale is caught, noise is called noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.test_conformal import world
from worldsim.contracts.point_mass import PointMass
from worldsim.jobs import conformal, coverage, coverage_page, pages
from worldsim.jobs.calibration import Calibration
from worldsim.jobs.measures import Band
from worldsim.jobs.results import COPY_LAST, FLOOR, RIGHT, SHUFFLED, ZERO, Errors, Evaluation
from worldsim.objectives import CautiousObjective, GoalObjective, MissingPrediction, require
from worldsim.protocols import Rollout


def calibrated(telling: bool = True) -> Calibration:
    squared, error, episode = world(300, 4, 0, telling, bound=0.3)
    fit = conformal.fit(squared, error, episode)
    position = conformal.fit(fit.uncertainty(squared) ** 2, 3 * error, episode)
    return Calibration(fit, position, ("agent_x", "agent_y"), 2, 300, 1200, 3, 1.0, ())


def judged(calibration: Calibration, telling: bool = True, horizon: int = 2) -> Evaluation:
    """Three hundred new episodes of the same kind; steps beyond two repeat the second."""
    squared, error, episode = world(300, 2, 9, telling, bound=0.3)
    more = np.minimum(np.arange(horizon), 1)
    squared, error = squared[:, more], error[:, more]
    told = calibration.feature.uncertainty(squared)
    right = Errors(RIGHT, error**2, None, 3 * error, told)
    a, b, c, d = (Errors(name, 4 * error**2, None, 6 * error) for name in (SHUFFLED, ZERO, COPY_LAST, FLOOR))
    made = Evaluation(episode, right, a, b, c, d, (), 2, horizon, horizon, 2, 0.5, 4.5, ("agent_x", "agent_y"), 0)
    found, notes = coverage.intervals(made, calibration, True)
    return replace(made, intervals=found, notes=notes)


def test_calibrated_intervals_hold_on_new_episodes_and_the_uncertainty_ranks_the_errors() -> None:
    evaluation = judged(calibrated())
    values = coverage.summary(evaluation)
    for name in ("latent", "position"):
        for step in (1, 2):
            assert 0.85 <= values[f"evaluate.{name}_coverage_{step}"] <= 0.95
            assert values[f"evaluate.{name}_verdict_{step}"] == "holds"
            assert values[f"evaluate.{name}_correlation_{step}_low"] > 0.6
            assert values[f"evaluate.{name}_disagreement_weight_{step}"] > 0.8
    assert not coverage_page.warnings(evaluation) and not evaluation.notes


def test_an_overconfident_scale_is_caught() -> None:
    good = calibrated()
    half = replace(good, feature=replace(good.feature, slope=good.feature.slope / 4, floor=good.feature.floor / 4))
    evaluation = judged(half)
    assert coverage.summary(evaluation)["evaluate.latent_verdict_1"] == "overconfident"
    assert any("latent errors are overconfident at step 1" in w for w in coverage_page.warnings(evaluation))
    assert pages.evaluation_sections(evaluation)[0][-1].verdict == "bad"


def test_a_scale_that_is_too_wide_is_caught() -> None:
    good = calibrated()
    wide = replace(good, feature=replace(good.feature, radius=3 * good.feature.radius))
    values = coverage.summary(judged(wide))
    assert values["evaluate.latent_verdict_2"] == "too wide" and values["evaluate.latent_coverage_2_low"] > 0.9


def test_of_few_episodes_it_is_said_that_they_cannot_tell() -> None:
    def band(low: float, high: float) -> Band:
        return Band(*(np.array([value]) for value in (0.88, low, high)))

    assert coverage.verdict(band(0.7, 0.95), 1) == "cannot tell" and coverage.verdict(band(0.8, 0.95), 1) == "holds"
    assert coverage.verdict(band(0.5, 0.89), 1) == "overconfident"


def test_disagreement_that_tells_nothing_is_said_plainly_though_its_intervals_hold() -> None:
    evaluation = judged(calibrated(telling=False), telling=False)
    values = coverage.summary(evaluation)
    assert values["evaluate.latent_verdict_2"] == "holds"
    assert values["evaluate.latent_disagreement_weight_2"] <= 0.1
    assert any("is not seen to tell the latent error after 2 steps" in w for w in coverage_page.warnings(evaluation))


def test_steps_beyond_the_calibrated_ones_take_the_last_scale_and_the_page_says_so() -> None:
    evaluation = judged(calibrated(), horizon=12)
    latent = evaluation.intervals[0]
    assert latent.calibrated == 2 and (latent.radius[1:] == latent.radius[1]).all()
    assert coverage.steps(evaluation) == (1, 5, 10)
    assert any("calibrated for 2 model steps; beyond them" in w for w in coverage_page.warnings(evaluation))


def test_what_the_promise_does_not_cover_is_noted() -> None:
    known, evaluation = calibrated(), judged(calibrated())
    _, notes = coverage.intervals(replace(evaluation, context=1, position=("x",)), known, False)
    assert [any(word in note for note in notes) for word in ("another one", "2 real frames", "agent_x")] == [True] * 3
    assert coverage.intervals(evaluation, None, True) == ((), ())


def test_the_rank_correlation_is_spearmans() -> None:
    one = np.array([[1.0], [2.0], [2.0], [4.0]])
    two = np.array([[1.0], [3.0], [2.0], [40.0]])
    found = coverage.rank_correlation(one, two, np.arange(4))
    assert found.value[0] == pytest.approx(0.9486832980505138)  # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    constant = coverage.rank_correlation(np.ones((4, 1)), two, np.arange(4))
    assert constant.value[0] == constant.low[0] == constant.high[0] == 0
    assert np.isnan(coverage.rank_correlation(one, two, np.zeros(4, int)).low[0])


def test_a_share_of_all_has_wilsons_interval_of_so_many_episodes() -> None:
    known = calibrated()
    wide = replace(known, feature=replace(known.feature, radius=99 * known.feature.radius))
    band = coverage.told(judged(wide).intervals[0], judged(wide).episode).coverage
    assert band.value[0] == 1 and band.low[0] == pytest.approx(0.987, abs=1e-3)  # 300 of 300


def test_a_cautious_objective_is_another_one_less_the_penalised_mean_uncertainty() -> None:
    latents, goal = torch.rand(3, 4, 2), torch.rand(3, 2)
    uncertainty = torch.rand(3, 4)
    bold = GoalObjective(goal, lambda a, b: (a - b).norm(dim=1))
    cautious = CautiousObjective(bold, 0.5)
    rollout = Rollout(None, latents, uncertainty=uncertainty)
    torch.testing.assert_close(cautious(rollout), bold(rollout) - 0.5 * uncertainty.mean(1))
    with pytest.raises(MissingPrediction, match="CautiousObjective needs uncertainty"):
        require(cautious, replace(PointMass().spec, uncertainty=False))
    with pytest.raises(MissingPrediction, match="no uncertainty"):
        cautious(Rollout(None, latents))
    with pytest.raises(ValueError, match="penalty is -1"):
        CautiousObjective(bold, -1)
