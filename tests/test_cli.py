"""The command line: quick help, one clear line for a mistake, and how to go on after Ctrl-C."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import worldsim
from worldsim import cli
from worldsim.data.space import check_space
from worldsim.registry import defined_names

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/x")
    steps: int = 3
    resume: bool = False


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], list[Config]]:
    """Add a job `sample` that records its configurations, and raises what it is told to."""

    def add(error: BaseException | None) -> list[Config]:
        seen: list[Config] = []

        def run(config: Config) -> None:
            seen.append(config)
            if error is not None:
                raise error

        module = ModuleType("worldsim.jobs.sample", "A job to test with.")
        setattr(module, "Config", Config)  # noqa: B010
        setattr(module, "run", run)  # noqa: B010
        monkeypatch.setitem(sys.modules, "worldsim.jobs.sample", module)
        monkeypatch.setattr(cli, "jobs", lambda: {"sample": Path(__file__)})
        return seen

    return add


def test_help_lists_every_job_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, worldsim.cli; code = worldsim.cli.main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'tyro', 'gymnasium', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.partition("jobs:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(cli.jobs()) and "--config" in done.stdout
    assert len({len(line[: line.index(line.split()[1], 2 + len(line.split()[0]))]) for line in lines}) == 1, "aligned"


def test_a_job_is_a_file_with_config_and_run_and_nothing_else_is() -> None:
    found = cli.jobs()
    for file in (ROOT / "worldsim" / "jobs").glob("*.py"):
        is_one = {"Config", "run"} <= defined_names(file) and file.stem not in cli.PARTS
        assert (file.stem in found) == is_one
    assert "train" not in found and "runs" not in found


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldsim {worldsim.__version__}\n"


def test_an_unknown_job_names_the_nearest(job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str]) -> None:
    job(None)
    assert cli.main(["sampel"]) == 2
    assert capsys.readouterr().err == "error: unknown job sampel, did you mean sample? Jobs: sample\n"


def test_a_word_that_is_nearly_a_job_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    for word, meant in (("pretrian", "pretrain"), ("trian", "pretrain"), ("evalute", "evaluate"), ("tune", "finetune")):
        assert cli.main([word, "--out", "x"]) == 2
        assert capsys.readouterr().err.startswith(f"error: unknown job {word}, did you mean {meant}? Jobs: quickstart")


def test_a_job_gets_the_configuration_of_its_flags(job: Callable[..., list[Config]]) -> None:
    seen = job(None)
    assert cli.main(["sample", "--steps", "5"]) == 0
    assert seen == [Config(steps=5)]


def test_an_unknown_flag_is_one_line_with_the_nearest(
    job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str]
) -> None:
    job(None)
    assert cli.main(["sample", "--stpes", "5"]) == 2
    assert capsys.readouterr().err == "error: unknown setting --stpes, did you mean --steps?\n"


@pytest.mark.parametrize(
    "error", [ValueError("a bad value"), FileNotFoundError("a bad value"), FloatingPointError("a bad value")]
)
def test_a_mistake_is_one_line_without_traceback(
    job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    job(error)
    assert cli.main(["sample"]) == 2
    assert capsys.readouterr().err == "error: a bad value\n"


def test_debug_shows_the_traceback(job: Callable[..., list[Config]]) -> None:
    job(ValueError("a bad value"))
    with pytest.raises(ValueError, match="a bad value"):
        cli.main(["sample", "--debug"])


def test_a_defect_of_ours_keeps_its_traceback(job: Callable[..., list[Config]]) -> None:
    job(AssertionError("ours"))
    with pytest.raises(AssertionError):
        cli.main(["sample"])


def test_a_full_disk_says_how_much_is_free_where_and_what_to_do(
    job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "not" / "there")))
    assert cli.main(["sample"]) == 2
    message = capsys.readouterr().err
    assert f"MiB free at {tmp_path};" in message and "--out" in message


def test_a_full_disk_that_was_foreseen_keeps_the_need_and_the_remedy(
    job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(OSError) as caught:
        check_space(tmp_path, 2**60, "a data set of 3 frames")
    job(caught.value)
    assert cli.main(["sample"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: a data set of 3 frames needs about {2**40} MiB in {tmp_path}, where ")
    assert message.endswith("free some space, choose another folder or store less\n") and "Errno" not in message


def test_ctrl_c_says_how_to_resume(job: Callable[..., list[Config]], capsys: pytest.CaptureFixture[str]) -> None:
    job(KeyboardInterrupt())
    assert cli.main(["sample", "--out", "my run"]) == 130
    assert capsys.readouterr().err == "interrupted: go on with: worldsim sample --out 'my run' --resume\n"


def test_every_job_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.jobs():
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0 and f"worldsim {name}" in capsys.readouterr().out
