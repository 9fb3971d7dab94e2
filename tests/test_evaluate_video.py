"""`evaluate` on a video model: planted models get the figures they must, and what cannot be measured has its reason."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.dot_films import EPISODES, LENGTH, SIDE, SMALL, task, write_films
from tests.test_tiny_video import parts
from worldsim import cli, keys
from worldsim import config as configuration
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video, untrained
from worldsim.backbones.video.black_box import BlackBox
from worldsim.data.cache import to_video
from worldsim.data.opening import open_dataset
from worldsim.diffusion import RF, denoising_errors, filtering, level
from worldsim.diffusion.frames import known_latents
from worldsim.jobs import (
    evaluate,
    evaluate_video,
    seen_films,
    serve_backbone,
    video_clips,
    video_results,
    video_task,
)
from worldsim.jobs.seen_films import read_listed
from worldsim.jobs.video_results import COPY_LAST, RANDOM_INIT, REAL, ROUND_TRIP, SAMPLES, VideoEvaluation
from worldsim.jobs.video_task import Opened, Settings
from worldsim.protocols import Condition, DenoiserSpec


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "set")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_video.save(*parts(), folder)
    return folder


def planted(films: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> VideoEvaluation:
    """The evaluation of a model whose latents are pixels: it copies the last frame, or knows how every clip goes on."""
    table = [to_video(torch.from_numpy(open_dataset(films).frames(i)[:, 0])) for i in range(EPISODES)]

    def known(clean: Tensor) -> Tensor:
        clips = torch.stack([film[i : i + 5] for film in table for i in range(LENGTH - 4)])
        far = (clips[None, :, :2] - clean[:, None, :2]).abs().flatten(2).sum(2)
        return clips[far.argmin(1)]

    def predict(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return known(condition.clean) if what == "knows" else condition.clean[:, 1:2].expand_as(noisy)

    spec = DenoiserSpec(3, 1, 1, 1, False, "x0", "none", True, given=4)
    box = BlackBox(spec, RF(), what, lambda x: x, lambda x: x, predict)
    opened = Opened(box, None, "it is planted", torch.device("cpu"))
    monkeypatch.setattr(video_task, "open_models", lambda asked: opened)
    return evaluate_video.evaluate(task(films, what, encoder=Settings().encoder))


def test_a_model_that_copies_gets_the_figures_of_copy_last(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(films, monkeypatch, "copies")
    ours, last, floor = (found.way(name) for name in (SAMPLES, COPY_LAST, REAL))
    assert ours and last and floor and ours.position is not None and last.position is not None
    for name in ("mse", "ssim", "position"):
        np.testing.assert_allclose(getattr(ours, name), getattr(last, name), atol=1e-6)
    band = found.position_ratio(COPY_LAST)
    assert band is not None
    np.testing.assert_allclose(band.value, 1, atol=1e-6)
    assert found.fd_ratio("clips", COPY_LAST) == pytest.approx((1, 1, 1), abs=1e-4)
    over_floor = found.fd_ratio("clips", REAL)
    assert over_floor is not None and over_floor[0] > 1.5, "what does not move is far from films that do"
    assert floor.position is not None and floor.position.mean() < 0.9 * last.position.mean()


def test_a_model_that_knows_the_future_is_at_the_floor(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(films, monkeypatch, "knows")
    ours, floor = found.way(SAMPLES), found.way(REAL)
    assert ours and floor and ours.mse is not None and ours.mse.max() < 1e-9
    assert ours.position is not None and floor.position is not None
    np.testing.assert_allclose(ours.position, floor.position, atol=1e-4)
    assert found.x0.max() < 1e-9 and found.native.max() < 1e-9
    for of in ("frames", "clips"):
        assert found.fd_ratio(of, REAL) == pytest.approx((1, 1, 1), abs=1e-4)
    band = found.position_ratio(COPY_LAST)
    assert band is not None and band.value[-1] < 1 and band.value[2] < band.value[0], "errors of copying grow"


def test_the_job_writes_numbers_a_page_and_a_sheet(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(model), "--data", str(films), "--video.frames", "5", "--video.steps", "2", "--shown", "2"]
    words += ["--video.levels", "3", "--video.components", "2", "--video.fit-clips", "24", "--clips", "1"]
    words += ["--video.encoder.resolution", "32", "--video.random-init"]
    assert cli.main(words) == 0
    folder = tmp_path / "runs" / "evaluate-model"
    values = json.loads((folder / "summary.json").read_text())
    assert values["video.n"] == 12 and values["video.episodes"] == 12 and len(values["video.sigma"]) == 3
    assert len(values["video.loss_native"]) == 3 and len(values["video.psnr_samples"]) == 3
    assert values["video.fingerprint"] == video.build(video.Config(str(model))).fingerprint
    for name in ("loss_x0_mean", "psnr_autoencoder_mean", "position_over_copy_last_mean", "position_error_floor_mean"):
        assert values[f"video.{name}_low"] <= values[f"video.{name}"] <= values[f"video.{name}_high"]
    for name in ("clips_over_random_init", "frames_over_copy_last", "clips_floor"):
        key = f"video.fd_tiny-dinov2_{name}"
        assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"]
    assert set(values["video.skipped"]) == {"FVD", "LPIPS"} and "--video.fvd" in values["video.skipped"]["FVD"]
    assert "does not say what it was pretrained on" in values["video.notes"][0]
    read = configuration.load(evaluate.Config, folder / "config.yaml")
    assert read.run == str(model) and read.video.random_init and read.video.encoder.config.resolution == 32
    page = (folder / "report.html").read_text()
    assert page.count("<video") == 2 and "Frechet distances" in page and "FVD" in page
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(words) == 2, "what is there is not replaced unasked"
    assert cli.main([*words, "--overwrite", "--horizon", "3"]) == 2


def test_over_http_it_finds_the_same(films: Path, model: Path) -> None:
    server = serve_backbone.make_server(serve_backbone.Config(port=0), video.build(video.Config(str(model))))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert video_task.is_video_model(url)
        drawn = {"lag": SMALL.steps, "eta": 1.0}
        far, near = (evaluate_video.evaluate(task(films, name, **drawn)) for name in (url, model))
        with pytest.raises(ValueError, match="is a black box: nobody can begin it anew"):
            evaluate_video.evaluate(task(films, url, random_init=True))
    finally:
        server.shutdown()
        server.server_close()
    one, other = (video_results.summary(found) for found in (far, near))
    assert one["video.loss_native"] == pytest.approx(other["video.loss_native"], rel=1e-5)
    assert one["video.psnr_samples"] == pytest.approx(other["video.psnr_samples"], rel=1e-5)
    assert "black box" in one["video.skipped"]["random init"] and far.way(RANDOM_INIT) is None


def test_batch_and_lag_change_nothing_but_what_they_must(films: Path, model: Path) -> None:
    asked = task(films, model, episodes=4, fit_clips=8)
    whole, single = (evaluate_video.evaluate(replace(asked, batch=batch)) for batch in (8, 1))
    np.testing.assert_allclose(single.native, whole.native, rtol=1e-4)
    one, other, late = (
        found.way(SAMPLES)
        for found in (whole, single, evaluate_video.evaluate(replace(asked, video=replace(asked.video, lag=2))))
    )
    assert one and other and late and one.mse is not None and other.mse is not None and late.mse is not None
    np.testing.assert_allclose(other.mse, one.mse, rtol=1e-3)
    assert not np.allclose(late.mse, one.mse, rtol=1e-3)
    alone = evaluate_video.evaluate(replace(asked, clips=1, video=replace(asked.video, episodes=1)))
    assert len(alone.episode) == 1, "where there are no actions none of another clip are needed"
    ceiling = whole.way(ROUND_TRIP)
    assert ceiling and ceiling.ssim is not None and ceiling.ssim.shape == (4, 3)


def test_only_episodes_that_pretraining_held_out_are_judged(films: Path, model: Path, tmp_path: Path) -> None:
    dataset = open_dataset(films)
    parted = video_clips.part(dataset, read_listed(model), 64, 0)
    assert len(parted.judged) == 12 and not set(parted.judged) & set(parted.fitted)
    said = tmp_path / "pretraining.json"
    said.write_text(json.dumps({"datasets": [{"dataset": dataset.fingerprint, "held_out": [2, 5, 7, 9]}]}))
    parted = video_clips.part(dataset, read_listed(tmp_path), 64, 0)
    assert parted.judged == (2, 5, 7, 9) and len(parted.fitted) == 14 and "held out" in parted.notes[0]
    few = video_clips.part(dataset, read_listed(tmp_path), 2, 0)
    assert len(few.judged) == 2 and set(few.judged) < {2, 5, 7, 9} and "2 were drawn" in few.notes[0]
    said.write_text(json.dumps({"datasets": [{"dataset": "another", "held_out": [1]}]}))
    assert "none is this one as it is read here" in video_clips.part(dataset, read_listed(tmp_path), 64, 0).notes[0]
    said.write_text(json.dumps({"datasets": [{"dataset": "another", "held_out": [1], "films": ["another"]}]}))
    assert "was not pretrained on this data set" in video_clips.part(dataset, read_listed(tmp_path), 64, 0).notes[0]
    said.write_text(json.dumps({"datasets": [{"dataset": dataset.fingerprint, "held_out": []}]}))
    with pytest.raises(ValueError, match="pretrained on every episode"):
        video_clips.part(dataset, read_listed(tmp_path), 64, 0)
    said.write_text(json.dumps({"datasets": [{"dataset": dataset.fingerprint}]}))
    with pytest.raises(ValueError, match="does not say which episodes were held out"):
        video_clips.part(dataset, read_listed(tmp_path), 64, 0)


def test_what_a_model_of_the_hub_was_pretrained_on_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pretraining.json").write_text(json.dumps({"datasets": [{"dataset": "one", "held_out": [3]}]}))
    monkeypatch.setattr(seen_films, "hf_hub_download", lambda name, file: str(tmp_path / file))
    told = seen_films.listed_of("somebody/model")
    assert told is not None and told.held_out == {"one": (3,)}

    def nothing(name: str, file: str) -> str:
        raise FileNotFoundError(file)

    monkeypatch.setattr(seen_films, "hf_hub_download", nothing)
    assert seen_films.listed_of("somebody/model") is None


def test_what_was_not_measured_has_its_reason(model: Path, tmp_path: Path) -> None:
    blind = write_films(tmp_path / "blind", state=False, episodes=9)
    found = evaluate_video.evaluate(task(blind, model, given=0, components=40))
    reasons = {one.measure: one.reason for one in found.skipped}
    assert "it has no state" in reasons["position"] and "not asked for" in reasons["random init"]
    assert "6 samples are too few for 40 components" in reasons["Frechet distance of clips"] or (
        "real samples cannot give 40 components" in reasons["Frechet distance of clips"]
    )
    assert "no first frame is given" in reasons["PSNR and positions by horizon"]
    ours = found.way(SAMPLES)
    assert ours and ours.mse is None and found.way(COPY_LAST) is None
    assert len(found.films) == 2 and all(film.copy_last is None for film in found.films), "samples alone are shown"
    evaluate_video.write(found, tmp_path, {})
    assert json.loads((tmp_path / "summary.json").read_text())["video.psnr_autoencoder_mean"] > 0
    assert (tmp_path / "sheet.png").is_file()
    assert "was shown no frame" in (tmp_path / "report.html").read_text()


def test_random_initialisation_changes_the_denoiser_alone(model: Path) -> None:
    config = video.Config(str(model))
    trained = video.build(config)
    before = trained.fingerprint
    fresh = untrained.begun_anew(trained, config)
    assert fresh.networks["vae"] is trained.networks["vae"] and trained.fingerprint == before
    clip = torch.rand(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(trained.encode(clip), fresh.encode(clip)) and fresh.fingerprint != trained.fingerprint
    noisy, sigma, condition = torch.ones(1, 3, 4, 4, 4), torch.ones(1, 3), trained.condition(clip[:, :0], 3)
    alpha, s = level(sigma)  # a new network adds nothing to the filter over the frames
    variance = filtering.variances(alpha, s, 0.02)
    own = filtering.updated(noisy, alpha, s, filtering.means(noisy, alpha, s, variance), variance)
    torch.testing.assert_close(fresh.x0(noisy, sigma, condition), own)
    assert not any(p.requires_grad for p in fresh.parameters())


def test_a_run_and_a_video_model_are_told_apart(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tuned").mkdir(parents=True)
    assert video_task.is_video_model(str(model)) and video_task.is_video_model("https://host:1")
    assert video_task.is_video_model("Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    for name in ("runs/tuned", "runs/tunde", "tuned", str(tmp_path)):
        assert not video_task.is_video_model(name)


def test_given_frames_do_not_count_in_losses_however_a_model_is_told_of_them() -> None:
    def predict(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.cat([torch.full_like(noisy[:, :1], 9.0), torch.zeros_like(noisy[:, 1:])], 1)  # wrong where shown

    spec = DenoiserSpec(3, 1, 1, 1, False, "x0", "none", False, given=1)
    box = BlackBox(spec, RF(), "told in channels", lambda x: x, lambda x: x, predict)
    latents, sigma = torch.zeros(2, 4, 3, 4, 4), torch.tensor([0.5, 1.0])
    told = Condition(torch.zeros_like(latents), torch.zeros(2, 4))  # nothing is held: the picture is in its inputs
    errors = denoising_errors(box, latents, told, sigma, keys.rows(0, 2), given=1)
    assert all(bool((one == 0).all()) for one in errors)
    assert all(bool((one > 0).all()) for one in denoising_errors(box, latents, told, sigma, keys.rows(0, 2)))
    with pytest.raises(ValueError, match="none is left"):
        denoising_errors(box, latents, told, sigma, keys.rows(0, 2), given=4)
    strided = replace(spec, frame_stride=4, lone_first=True)
    assert [known_latents(strided, n) for n in (0, 1, 2, 5, 6)] == [0, 1, 1, 2, 2]
    assert [known_latents(replace(spec, frame_stride=4), n) for n in (1, 4, 5)] == [0, 1, 1]
