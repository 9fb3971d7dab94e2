"""The evaluation of a video model as a page and as a sheet of film strips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.jobs.video_charts import (
    NAMES,
    action_table,
    distance_table,
    fvd_table,
    loss_chart,
    mask_chart,
    measure_chart,
)
from worldsim.jobs.video_results import (
    BASE,
    COPY_LAST,
    OTHER,
    RANDOM_INIT,
    REAL,
    SAMPLES,
    VideoEvaluation,
    with_mean,
)
from worldsim.report.html import write_report
from worldsim.report.records import Cell, Figure, Film, Headline, Report, Section, Table, Verdict
from worldsim.report.sheets import Strip, sheet

MEASURES = (
    ("mse", "PSNR", "dB, higher is better"),
    ("ssim", "SSIM", "higher is better"),
    ("lpips", "LPIPS", "lower is better"),
    ("position", "Position error", "distance from the exact position"),
    ("action", "Action error", "of what is read off the frames"),
)


TITLES = {False: "What a video model knows", True: "What a video model makes of actions"}


def write_video_report(evaluation: VideoEvaluation, path: Path, settings: Mapping[str, str]) -> None:
    """The page of `worldsim evaluate` on a video model."""
    clips, episodes = len(evaluation.episode), len(np.unique(evaluation.episode))
    horizon = evaluation.frames[0].pooled.shape[1]
    subtitle = (
        f"{evaluation.model}: {clips} clips of {episodes} episodes, {horizon} frames after {evaluation.given} given "
        f"ones, {evaluation.seconds:.3g} s apart"
    )
    found = Report(TITLES[evaluation.run], subtitle, headlines(evaluation), sections(evaluation), settings)
    write_report(Report(found.title, subtitle, found.headlines, found.sections, settings, warnings(evaluation)), path)


def strips(evaluation: VideoEvaluation) -> tuple[Strip, ...]:
    """Every film as rows of pictures: real, sample; of a run under others' actions and by the base; and copy last."""
    found = []
    for film in evaluation.films:
        rows = [("real", film.real), ("sample", film.sample)]
        more = (("others'", film.other), ("base", film.base), ("copy last", film.copy_last))
        rows += [(name, frames) for name, frames in more if frames is not None]
        found.append(Strip(film.title, tuple(rows), evaluation.given))
    return tuple(found)


def picture(evaluation: VideoEvaluation) -> NDArray[np.uint8] | None:
    """The sheet of all films, two side by side; None without films."""
    shown = strips(evaluation)
    return sheet(shown, min(2, len(shown))) if shown else None


def headlines(evaluation: VideoEvaluation) -> tuple[Headline, ...]:
    found = []
    for of in ("clips", "frames"):
        for other in (RANDOM_INIT, COPY_LAST):
            ratio = evaluation.fd_ratio(of, other)
            if ratio is not None and of == "clips":
                text = f"Frechet distance of {of}, in features of {evaluation.encoder}, over that of {other}"
                found.append(_ratio_headline(f"FD over {other}", ratio, text))
    for other in (COPY_LAST, RANDOM_INIT, BASE, OTHER):
        band = evaluation.position_ratio(other)
        if band is not None and np.isfinite(band.value[-1]):
            ratio = float(band.value[-1]), float(band.low[-1]), float(band.high[-1])
            text = f"probed position error of the samples, mean of all frames, over that of {NAMES[other]}"
            found.append(_ratio_headline(f"Position error over {NAMES[other]}", ratio, text))
    band = evaluation.action_ratio(SAMPLES)
    if band is not None and np.isfinite(band.value[-1]):
        value, low, high = (float(part[-1]) for part in (band.value, band.low, band.high))
        text = "error of the actions read off the samples, over that on real clips: 1 is as readable as real"
        told = f", 95 % interval {low:.2f} to {high:.2f}" if np.isfinite(low) else ""
        found.append(Headline("Action error ratio", f"{value:.2f}", "neutral", text + told))
    return tuple(found)


def warnings(evaluation: VideoEvaluation) -> tuple[str, ...]:
    found = list(evaluation.notes)
    floor, last = evaluation.way(REAL), evaluation.way(COPY_LAST)
    if floor is not None and last is not None and floor.position is not None and last.position is not None:
        if floor.position.mean() >= 0.8 * last.position.mean():
            found.append(
                f"The probe is off by {floor.position.mean():.2f} on real frames, copying the last frame by "
                f"{last.position.mean():.2f}: positions say little here. More --video.fit-clips, or another encoder."
            )
    guess, real = evaluation.guess, None if floor is None else floor.action
    if guess is not None and real is not None and real.mean() >= 0.8 * guess.mean():
        found.append(
            f"What reads actions is off by {real.mean():.2f} on real clips, and always saying the commonest action by "
            f"{guess.mean():.2f}: action errors say little here. More --video.reader.steps, or larger --gap."
        )
    if len(np.unique(evaluation.episode)) < 2:
        found.append("One judged episode alone gives no intervals.")
    return tuple(found)


def sections(evaluation: VideoEvaluation) -> tuple[Section, ...]:
    """Strips and films, the noise that is taken away, likeness by horizon, distances of distributions, what is not."""
    found = []
    image = picture(evaluation)
    if image is not None:
        films = tuple(
            Film(film.title, film.real, film.sample, evaluation.seconds, "real", "sampled", evaluation.given)
            for film in evaluation.films
        )
        how = (
            f"The model was shown {evaluation.given} real frames (under the line) and continued them. "
            if evaluation.given
            else "The model was shown no frame: its samples have nothing to do with the real clips beside them. "
        )
        open_end = (
            "It was told the actions; below is what it draws from the same noise under those of another clip "
            "(others'), and what the base draws, which is told none."
            if evaluation.run
            else "The future is open: a sample may differ from what happened and be right."
        )
        text = f"{how}The clips are spread evenly over all that were judged, not picked. {open_end}"
        found.append(Section("Samples beside real", text, (Figure("All clips", image), *films)))
    found.append(Section("Noise taken away", _loss_text(evaluation), (loss_chart(evaluation),)))
    charts = tuple(measure_chart(evaluation, *measure) for measure in MEASURES)
    shown = tuple(chart for chart in charts if chart is not None)
    if shown:
        found.append(Section("Likeness by horizon", _likeness_text(evaluation), shown))
    if evaluation.action_ratio(SAMPLES) is not None:
        text = (
            "A network that was trained on real clips reads the actions off frames. Its error over that on real clips "
            "is 1 for frames that show their actions as real ones do. Samples under the actions of other clips, judged "
            "by the right ones, are what a model that answers to actions must be better than."
        )
        found.append(Section("Action error ratio", text, (action_table(evaluation),)))
    if evaluation.mask is not None:
        text = (
            f"The share that the base has in a prediction, {np.nanmean(evaluation.mask):.2f} in the mean: 1 trusts the "
            "base, 0 the adapter. One line a level of noise."
        )
        found.append(Section("The mask", text, (mask_chart(evaluation, evaluation.mask),)))
    if evaluation.frechet:
        text = (
            f"FD-{evaluation.encoder}: the squared Frechet distance between normal distributions of features, in "
            "principal components that were fitted on real frames of other episodes. A frame is the mean of its patch "
            "tokens; a clip is the mean of its frames over time beside the mean absolute change from frame to frame. "
            "Every set is compared with real frames of episodes other than its own, so real itself is not 0: it is the "
            "floor. The samples are few, so distances compare within this page only."
        )
        found.append(Section("Frechet distances", text, tuple(distance_table(one) for one in evaluation.frechet)))
    if evaluation.fvd is not None:
        text = (
            "FVD (Unterthiner et al. 2019): the Frechet distance of the logits of I3D over whole clips, given frames "
            f"and all, between all {len(evaluation.episode)} clips of a set and the real ones, in all 400 directions. "
            "Real clips themselves are at 0. Papers take 2048 clips or more: with fewer it is far too high, so it "
            "compares with nothing but the same number of clips of the same data, length and gap."
        )
        found.append(Section("FVD", text, (fvd_table(evaluation.fvd),)))
    if evaluation.skipped:
        rows: tuple[tuple[Cell, ...], ...] = tuple((one.measure, one.reason) for one in evaluation.skipped)
        found.append(Section("Not measured", "", (Table("Skipped", ("measure", "why"), rows),)))
    return tuple(found)


def _loss_text(evaluation: VideoEvaluation) -> str:
    native, clean = (evaluation.band(with_mean(values)) for values in (evaluation.native, evaluation.x0))
    return (
        f"Levels are spread over those of training, so that the mean native loss ({evaluation.kind}), "
        f"{native.value[-1]:.4g}, is what training sees. The clean latents, of about unit variance, are missed by "
        f"{clean.value[-1]:.4g} (mean square). Given frames do not count. The axis is the angle of noise over signal."
    )


def _likeness_text(evaluation: VideoEvaluation) -> str:
    text = (
        "The autoencoder's round trip of the real frames is the ceiling of what samples can reach. Bands are 95 % "
        "intervals by bootstrap over episodes."
    )
    if evaluation.position:
        text += (
            f"\n\nThe position ({', '.join(evaluation.position)}) is read from {evaluation.encoder} by ridge "
            "regression, fitted on real frames of episodes that are not judged; its error on real frames is the floor."
        )
    return text


def _ratio_headline(name: str, ratio: tuple[float, float, float], text: str) -> Headline:
    value, low, high = ratio
    verdict: Verdict = "good" if high < 1 else "bad" if low >= 1 else "neutral"
    told = f", 95 % interval {low:.2f} to {high:.2f}" if np.isfinite(low) else ""
    return Headline(name, f"{value:.2f}", verdict if np.isfinite(low) else "neutral", text + told)
