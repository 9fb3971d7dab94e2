"""The registry: file names are kinds, and nothing else is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from worldsim import registry
from worldsim.registry import Component

ROOT = Path(__file__).parent.parent


def test_every_policy_file_with_config_and_build_is_a_kind_and_no_other_file_is() -> None:
    files = {file.stem for file in (ROOT / "policies").glob("*.py")}
    found = set(registry.kinds("policies"))
    assert "cem" in found and found <= files and "__init__" not in found
    for kind in found:
        module = registry.module("policies", kind)
        assert dataclasses.is_dataclass(module.Config) and callable(module.build)


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_kind_of_every_family_has_working_defaults_and_comes_from_its_own_file(family: str) -> None:
    for kind in registry.kinds(family):
        config = registry.config_class(family, kind)()
        assert type(config).__module__ == f"worldsim.{family}.{kind}"


def test_an_unknown_kind_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(ValueError, match="unknown kind 'cme' of policies, did you mean 'cem'") as caught:
        registry.module("policies", "cme")
    assert all(kind in str(caught.value) for kind in registry.kinds("policies"))


@pytest.mark.parametrize(
    ("family", "kind", "role", "legal"),
    [
        ("backbones", "dino_world", "encoder", ("dinov2", "dinov3", "timm_vit", "vjepa2")),
        ("backbones", "reduced", "encoder", ("dinov2", "dinov3", "timm_vit", "vjepa2")),
        ("policies", "mpc", "planner", ("cem", "random")),
    ],
)
def test_a_file_that_builds_something_else_is_no_kind_and_the_legal_ones_are_listed(
    family: str, kind: str, role: str, legal: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=f"kind '{kind}' of {family} is no {role} .*did you mean '") as caught:
        registry.module(family, kind)
    assert registry.kinds(family) == legal and str(caught.value).endswith(f"Kinds of {family}: {', '.join(legal)}")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("class Config: ...\nclass A:\n    def plan(self): ...\ndef build(config): ...\n", True),
        ("class Config: ...\nclass A(Protocol):\n    def plan(self): ...\ndef build(config): ...\n", False),
        ("class A:\n    def plan(self): ...\ndef build(config): ...\n", False),
        ("class Config: ...\ndef plan(): ...\ndef build(config): ...\n", False),
    ],
)
def test_a_kind_is_known_by_the_methods_of_the_class_it_builds(tmp_path: Path, text: str, fits: bool) -> None:
    (tmp_path / "part.py").write_text("raise SystemExit\n" + text)
    assert registry.fills(tmp_path / "part.py", registry.FAMILIES["policies"]) is fits


def test_the_examples_of_new_parts_in_the_documents_are_kinds(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    parts = [block for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "def build" in block]
    for family, block in zip(("backbones", "adapters", "adapters.video", "policies"), parts, strict=True):
        (tmp_path / "part.py").write_text(block)
        assert registry.fills(tmp_path / "part.py", registry.FAMILIES[family])


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown family 'policy', did you mean 'policies'"):
        registry.kinds("policy")


def test_a_kind_cannot_escape_its_family() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        registry.module("policies", "..cli")


def test_a_file_is_a_kind_once_it_defines_both_and_is_not_run_to_find_out(tmp_path: Path) -> None:
    file = tmp_path / "part.py"
    file.write_text("raise SystemExit\nclass Config: ...\ndef helper(): ...\n")
    assert registry.defined_names(file) == {"Config", "helper"}


def test_build_hands_the_parts_to_the_kind_of_the_component() -> None:
    module = registry.module("policies", "random")
    planner = registry.build(Component("policies", "random", module.Config()))
    assert type(planner).__module__ == "worldsim.policies.random"
