"""An embedding that is kept stands for the encoder of texts, and does not change what a model is, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import test_cosmos
from tests.test_video_families import TEXTLESS
from tests.video_cases import CASES, SERVED
from worldsim.backbones import video
from worldsim.backbones.video.embeddings import TEXT_PARTS

READ_WITH_PICTURES = ("hunyuan concat", "hunyuan replace")


@pytest.mark.parametrize("name", [name for name in SERVED if name not in (*TEXTLESS, *READ_WITH_PICTURES)])
def test_a_model_whose_texts_are_kept_is_the_same_without_their_encoders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (test_cosmos.pipeline_cosmos2_5_predict, test_cosmos.pipeline_cosmos2_video2world):
        monkeypatch.setattr(module, "CosmosSafetyChecker", test_cosmos.Guardrail)
    folder, kept = tmp_path / "model", tmp_path / "kept.safetensors"
    CASES[name].make().save_pretrained(folder)
    plain = video.build(video.Config(str(folder), "a dot moves", "nothing"))
    config = video.Config(str(folder), "a dot moves", "nothing", embeddings=kept)
    first = video.build(config)
    for part in TEXT_PARTS:
        if (folder / part).exists():
            (folder / part).rename(tmp_path / part)
    again = video.build(config)
    assert plain.fingerprint == first.fingerprint == again.fingerprint
