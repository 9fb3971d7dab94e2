"""What a black box says of itself, and the tensors that it sends, are believed only as far as a model can have them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from worldsim.backbones.video import wire
from worldsim.backbones.video.cosmos import Levels
from worldsim.diffusion import EDM, RF, VP
from worldsim.protocols import DenoiserSpec, Schedule

SPEC = DenoiserSpec(4, 8, 16, 4, True, "flow", "none", False, 1)


def said(schedule: Schedule) -> dict[str, Any]:
    return json.loads(wire.describe(SPEC, schedule, "x"))


@pytest.mark.parametrize("schedule", [VP(), VP(zero_snr=True), VP(4), EDM(), RF(), RF(3.0, 1.0, 2), Levels(0.002, 80)])
def test_a_description_is_understood(schedule: Schedule) -> None:
    assert wire.understand(json.dumps(said(schedule)).encode()) == (SPEC, schedule, "x")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stride", 0, "stride is 0"),
        ("stride", "8", "stride is '8'"),
        ("stride", 2**40, "stride is 1099511627776"),
        ("multiple", 3, "a multiple of stride"),
        ("lone_first", 1, "lone_first is 1"),
        ("in_place", "no", "in_place is 'no': it must be true or false"),
        ("kind", "noise", "kind is 'noise'"),
        ("kind", [], r"kind is \[\]"),
        ("guidance", "much", "guidance is 'much'"),
        ("fps", "fast", "fps is 'fast'"),
        ("fps", True, "fps is True"),
        ("change", -1, "change is -1"),
        ("change", float("nan"), "change is nan"),
        ("most", 0, "most is 0"),
        ("most", [[[[[[[[]]]]]]]], r"most is \[\[\[\[\[\[\[\.\.\.\]"),
    ],
)
def test_a_model_that_there_is_not_is_told(field: str, value: object, message: str) -> None:
    told = said(RF())
    told["spec"][field] = value
    with pytest.raises(ValueError, match=message):
        wire.understand(json.dumps(told).encode())


def test_a_model_that_takes_no_clip_is_told() -> None:
    told = said(RF())
    told["spec"] |= {"least": 9, "most": 3}
    with pytest.raises(ValueError, match="takes no clip: .* from least, 9, to most, 3"):
        wire.understand(json.dumps(told).encode())
    told["spec"] |= {"least": 6, "most": 6, "group": 2}
    with pytest.raises(ValueError, match=r"takes no clip: no number 2 k \+ 1 of latent frames"):
        wire.understand(json.dumps(told).encode())


@pytest.mark.parametrize(
    ("schedule", "settings", "message"),
    [
        (RF(), {"shift": "much"}, "shift is 'much'"),
        (RF(), {"shift": -1}, "shift is -1"),
        (RF(), {"shift": 0}, "shift is 0"),
        (RF(), {"shift": [1]}, r"schedule.shift is \[1\]: it must be a number or a word"),
        (RF(), {"shift": 1e-20}, "do not fall from noise to 0"),
        (RF(), {"steps": -5}, "steps is -5"),
        (RF(), {"scale": "a"}, "scale is 'a'"),
        (RF(), {"kind": "DDIM"}, "schedule is 'DDIM': it must be one of VP, EDM, RF, Levels"),
        (RF(), {"kind": [1]}, "no description"),
        (RF(), {"speed": 1}, "no description.*speed"),
        (VP(), {"betas": "foo"}, "betas is 'foo'"),
        (VP(), {"spacing": "foo"}, "spacing is 'foo'"),
        (VP(), {"start": -3}, "start is -3"),
        (VP(), {"steps": 1}, "steps is 1"),
        (VP(), {"offset": 900}, "do not fall from noise to 0"),
        (EDM(), {"high": -1}, "high is -1"),
        (EDM(), {"low": 1e-60}, "do not fall from noise to 0"),
        (EDM(), {"rho": 1e-3}, "no description.*OverflowError"),
        (Levels(1.0, 2.0), {"high": 1.0}, "high is 1.0"),
    ],
)
def test_a_schedule_that_there_is_not_is_told(schedule: Schedule, settings: dict[str, Any], message: str) -> None:
    told = said(schedule)
    told["schedule"] |= settings
    with pytest.raises(ValueError, match=message):
        wire.understand(json.dumps(told).encode())


@pytest.mark.parametrize("fingerprint", [{"a": 1}, "", None, 3])
def test_a_fingerprint_is_a_word(fingerprint: object) -> None:
    with pytest.raises(ValueError, match="fingerprint is .*: it must be a word"):
        wire.understand(json.dumps({**said(RF()), "fingerprint": fingerprint}).encode())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"{}", "KeyError"),
        (b"hello", "JSONDecodeError"),
        (b"\xff\xff\xff", "UnicodeDecodeError"),
        (b"[" * 10**5, "RecursionError"),
        (b"[1]", "TypeError"),
        (b'{"version": ' + b"9" * 5000 + b"}", "no description"),
        (b'{"version": 9}', "version 9"),
        (b'{"version": 1, "schedule": "RF"}', "TypeError"),
    ],
)
def test_what_is_no_description_is_told(text: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wire.understand(text)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.complex64, torch.int64])
def test_only_floats_are_taken_for_what_is_measured(dtype: torch.dtype) -> None:
    sent = wire.unpack(wire.pack({"x0": torch.ones(2, 3).to(dtype)}))
    with pytest.raises(
        ValueError, match=r"the tensor 'x0' holds torch.*; float16, bfloat16, float32, float64 are taken"
    ):
        wire.needed(sent, "x0")
    with pytest.raises(ValueError, match="the answer holds torch"):
        wire.checked(sent["x0"], (2, 3), "the answer")


def test_a_mask_may_be_of_whole_numbers_and_what_a_network_is_told_too() -> None:
    shape = (1, 2, 4, 1, 1)
    sent = {"clean": torch.zeros(shape).half(), "clean_mask": torch.ones(1, 2, dtype=torch.bool)}
    found = wire.to_condition({**sent, "input.0": torch.ones(1, 7, dtype=torch.int64)}, shape)
    assert found.clean_mask.dtype == torch.float32 and found.inputs[0].dtype == torch.int64
    with pytest.raises(ValueError, match="'clean_mask' holds torch.float8"):
        wire.to_condition({**sent, "clean_mask": torch.ones(1, 2).to(torch.float8_e5m2)}, shape)
