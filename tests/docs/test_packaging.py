"""The checkout, the wheel and the rules of the house agree with each other."""

import json
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from places import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_mapped_folder_is_also_a_link() -> None:
    """Wheels use package-dir, checkouts use links: they name the same folders."""
    mapped = SETTINGS["tool"]["setuptools"]["package-dir"]
    links = {f"probe.{p.name}": p.readlink().name for p in (ROOT / "probe").iterdir() if p.is_symlink()}
    assert links == mapped


def test_every_package_is_listed() -> None:
    """A folder with Python files that the wheel does not list would be missing after pip install."""
    homes = {"probe": ROOT / "probe"}
    homes |= {f"probe.{p.name}": p.resolve() for p in (ROOT / "probe").iterdir() if p.is_symlink()}
    packages = {
        ".".join((name, *file.parent.relative_to(home).parts))
        for name, home in homes.items()
        for file in home.rglob("*.py")
    }
    assert packages == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_every_data_file_is_listed() -> None:
    """What lies beside the modules and no pattern names (CUDA sources, assets) would be missing after pip install."""
    homes = {"probe": ROOT / "probe"}
    homes |= {f"probe.{p.name}": p.resolve() for p in (ROOT / "probe").iterdir() if p.is_symlink()}
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]
    shipped = {
        file for package, names in patterns.items() for name in names for file in _home(package, homes).glob(name)
    }
    kept = ROOT / "microbench" / "results"  # what one machine measured: for the documents, not for the program
    data = {
        file
        for home in homes.values()
        for file in home.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and not file.is_relative_to(kept)
    }
    assert shipped == data


def _home(package: str, homes: dict[str, Path]) -> Path:
    """The folder of a package in the checkout."""
    name = max((n for n in homes if package == n or package.startswith(f"{n}.")), key=len)
    return homes[name].joinpath(*package.removeprefix(name).strip(".").split("."))


def test_kernels_never_shadows_hugging_face_kernels() -> None:
    """A folder without __init__.py loses to any installed package of the same name."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_type_information_is_shipped() -> None:
    assert files("probe").joinpath("py.typed").is_file()


def test_constraints_pin_every_requirement() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = SETTINGS["project"]["dependencies"] + SETTINGS["project"]["optional-dependencies"]["test"]
    names = {requirement.split(">=")[0].strip().lower() for requirement in wanted}
    assert names <= {name.lower() for name in pinned}


@pytest.mark.parametrize("module", ["probe", "probe.cli", "probe.session"])
def test_importing_pulls_in_nothing_heavy(module: str) -> None:
    """Nobody who does not profile pays for torch, pandas, plotly or dash."""
    code = f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "dash", "pandas", "plotly", "triton"} & set(loaded)


def test_imports_point_down() -> None:
    """The contracts of pyproject.toml hold (import-linter)."""
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_make_has_no_doubled_target() -> None:
    """A target that is written twice silently loses one of its recipes."""
    listed = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert listed.stderr == ""
    assert {"microbench", "test", "lint", "gpu"} <= {line.split()[0] for line in listed.stdout.splitlines()}
