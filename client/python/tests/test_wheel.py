"""The wheel: that it builds, and that what is installed from it works and is typed, away from the sources."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

PACKAGE = Path(__file__).parents[1]

PROGRAM = """
import asyncio
from hms_spine import BreakerPolicy, CircuitOpen, Spine, aio

def found(spine: Spine) -> str:
    spine.register("photo", "http://localhost:8002", version="v1", weight=80)
    with spine.resolver("photo", breaker=BreakerPolicy(failures=2)) as resolver, resolver.call(version="v1") as url:
        return url

async def found_too(spine: aio.Spine) -> str:
    async with spine.resolver("photo") as resolver, resolver.call() as url:
        return url

reveal_type(found_too)
"""


def run(*command: object) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, PACKAGE)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and nothing else."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    return python


def test_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = PACKAGE / "src"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == modules | {"hms_spine/py.typed"}


def test_is_imported_away_from_the_sources(python: Path) -> None:
    tell = "import hms_spine, hms_spine.aio; print(hms_spine.__version__, hms_spine.__file__)"
    version, place = run(python, "-I", "-c", tell).split()
    assert version == "0.1.0"
    assert str(python.parents[1]) in place


def test_types_are_there_for_who_uses_it(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "--python-executable", python]
    told = run(*mypy, program)
    assert "def (spine: hms_spine.aio.core.Spine) -> typing.Coroutine[Any, Any, str]" in told
