"""Where are the files of the base? A worktree of the git reference, with its own environment where its needs differ."""

from __future__ import annotations

import contextlib
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from probe.errors import InputError, UsageError

REQUIREMENTS = (
    "requirements.txt",
    "constraints.txt",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "uv.lock",
    "poetry.lock",
)
NO_REPOSITORY = ("not a git repository", "git, which is not installed")
_INSTALL_S = 1800


@dataclass(frozen=True)
class Checkout:
    """A version's files: the repository's root, the working directory in it, and the interpreter that runs it."""

    name: str
    root: Path
    cwd: Path
    python: str
    commit: str | None = None


def here(cwd: Path = Path()) -> Checkout:
    """The working tree, as it is; the current directory where there is no repository."""
    cwd = cwd.resolve()
    try:
        root = repository(cwd)
        commit = _git(root, "rev-parse", "HEAD")
    except (InputError, UsageError) as error:
        if not any(words in str(error) for words in NO_REPOSITORY):
            raise  # a repository that git refuses: of another owner, damaged, without a commit
        return Checkout(f"the files in {cwd}", cwd, cwd, sys.executable)
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    name = f"working tree ({commit[:8]}{' with changes' if changed else ''})"
    return Checkout(name, root, cwd, sys.executable, commit)


def repository(path: Path) -> Path:
    """The root of the git repository that holds `path`."""
    return Path(_git(path, "rev-parse", "--show-toplevel"))


@contextlib.contextmanager
def checked_out(reference: str, new: Checkout, *, install: bool = True) -> Iterator[Checkout]:
    """The files at `reference`, for the time of the block; the working tree is not touched.

    Raises UsageError for a reference that git does not know, InputError where it cannot be checked out or installed.
    """
    if new.commit is None:
        raise UsageError(f"--against {reference}: {new.root} is in no git repository; use --baseline")
    commit = _commit(new.root, reference)
    with tempfile.TemporaryDirectory(prefix="probe-gate-") as folder:
        root = Path(folder) / "base"
        _git(new.root, "worktree", "add", "--detach", "--quiet", str(root), commit)
        try:
            cwd = root / new.cwd.resolve().relative_to(new.root.resolve())
            if not cwd.is_dir():
                raise InputError(f"{reference}: it has no directory {cwd.relative_to(root)}; run the gate from another")
            python = new.python
            if install and (changed := differing(new.root, root)):
                python = _environment(Path(folder) / "environment", root, reference, changed)
            yield Checkout(f"{reference} ({commit[:8]})", root, cwd, python, commit)
        finally:
            _forget(new.root, root)


def _commit(root: Path, reference: str) -> str:
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    except InputError:
        shallow = _git(root, "rev-parse", "--is-shallow-repository") == "true"
        remedy = "fetch it first (in CI: fetch-depth: 0)" if shallow else "see git branch -a, git tag"
        raise UsageError(f"--against {reference}: git knows no such commit; {remedy}") from None


def differing(new: Path, base: Path) -> list[str]:
    """The files that say what the program needs and that differ between the two."""
    return [name for name in REQUIREMENTS if _text(new / name) != _text(base / name)]


def _text(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.is_file() else None


def _environment(folder: Path, root: Path, reference: str, changed: list[str]) -> str:
    """An environment with what the base asks for, on top of this one's packages."""
    python = folder / "bin" / "python"
    seen = site.getsitepackages()  # by the new one too, which is made in a third of the time without a pip of its own
    pip = PathFinder.find_spec("pip", seen)  # find_spec() would let setuptools' hook warn
    bare = ["--without-pip"] if pip is not None and pip.origin is not None else []
    _done([sys.executable, "-m", "venv", *bare, str(folder)], reference, changed)
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(own, "of_the_gate.pth").write_text("\n".join(seen) + "\n")  # a venv inherits no other's
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if (root / "constraints.txt").is_file():
        install += ["-c", str(root / "constraints.txt")]
    for asked in _asked(root):
        _done([*install, *asked], reference, changed)
    return str(python)


def _asked(root: Path) -> Iterator[list[str]]:
    """What the base says it needs, as pip takes it."""
    if (root / "requirements.txt").is_file():
        yield ["-r", str(root / "requirements.txt")]
    if any((root / name).is_file() for name in ("pyproject.toml", "setup.py")) and _is_package(root):
        yield ["-e", str(root)]


def _is_package(root: Path) -> bool:
    """Whether there is something to install: a pyproject.toml may hold settings only."""
    project = _text(root / "pyproject.toml") or ""
    return "[project]" in project or "[build-system]" in project or (root / "setup.py").is_file()


def _done(command: list[str], reference: str, changed: list[str]) -> None:
    """Run a step of making the environment. Raises InputError where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        said = " ".join((done.stderr or done.stdout).split())[-300:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"{command[2:4]} took longer than {_INSTALL_S // 60} minutes"
    if said:
        raise InputError(
            f"{reference}: its environment cannot be made ({', '.join(changed)} differ): {said}; "
            "--no-install runs it in this one"
        )


def _forget(repo: Path, root: Path) -> None:
    """Take the worktree away; git's own note of it too."""
    shutil.rmtree(root, ignore_errors=True)
    with contextlib.suppress(InputError):
        _git(repo, "worktree", "prune")


def _git(path: Path, *words: str) -> str:
    """What git says. Raises InputError where it fails, UsageError where there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(path), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("--against needs git, which is not installed; use --baseline") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"git {words[0]} failed"
        raise InputError(f"{path}: {said}")
    return done.stdout.strip()
