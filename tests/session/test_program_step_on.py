"""--step-on is understood before the program is started: without importing what it names, and never too strictly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probe.errors import UsageError
from probe.program.step_on import missing, refuse_unknown


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script beside a module, a package and a namespace, none of which may be imported."""
    never = "raise SystemExit('imported')\n"
    (tmp_path / "train.py").write_text("from steps_here import one as other\nif True:\n    def step(): ...\nstep()\n")
    (tmp_path / "steps_here.py").write_text(f"{never}def one(): ...\nclass Trainer: ...\n")
    (tmp_path / "star_here.py").write_text(f"{never}from steps_here import *\n")
    (tmp_path / "dynamic_here.py").write_text(f"{never}globals()['made'] = print\n")
    (tmp_path / "local_here.py").write_text(f"{never}locals()['made'] = print\n")
    (tmp_path / "pack_here" / "inner").mkdir(parents=True)
    (tmp_path / "pack_here" / "__init__.py").write_text(f"{never}")
    (tmp_path / "pack_here" / "inner" / "deep.py").write_text(f"{never}def one(): ...\n")
    (tmp_path / "pack_here" / "compiled.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "train.py")


@pytest.mark.parametrize(
    "text",
    [
        "step", "other", "__main__:step", "steps_here:one", "steps_here:Trainer.fit", "star_here:anything",
        "dynamic_here:made", "local_here:made", "pack_here.inner.deep:one", "pack_here.compiled:one", "os.path:join",
        "math:sqrt",
    ],
)  # fmt: skip
def test_what_may_be_there_is_taken(program: str, text: str) -> None:
    before = list(sys.path)
    refuse_unknown(text, program, module=False)
    assert sys.path == before
    assert not {"steps_here", "pack_here"} & set(sys.modules)


def test_a_program_that_says_itself_where_its_modules_are_may_find_them(program: str) -> None:
    Path(program).write_text("import sys\nsys.path.insert(0, '../lib')\nfrom engine import step\n")
    refuse_unknown("engine:step", program, module=False)
    with pytest.raises(UsageError, match="has no two"):
        refuse_unknown("steps_here:two", program, module=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stop", "train.py has no stop; did you mean step?"),
        ("steps_here:two", "steps_here.py has no two; name a function"),
        ("steps_heer:one", "no module steps_heer is found"),
        ("pack_here.iner.deep:one", "no module pack_here.iner.deep is found"),
        ("pack_here.inner.deep:noe", "deep.py has no noe; did you mean one?"),
        ("not a name", "write MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_there_is_refused(program: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--step-on") as told:
        refuse_unknown(text, program, module=False)
    assert said in str(told.value) and "\n" not in str(told.value)


def test_of_a_program_run_by_its_module_the_current_directory_counts(program: str) -> None:
    refuse_unknown("steps_here:one", "pack_here", module=True)
    refuse_unknown("step", "pack_here", module=True)  # said where the program is started
    with pytest.raises(UsageError, match="has no two"):
        refuse_unknown("steps_here:two", "pack_here", module=True)


def test_what_a_match_binds_is_there(tmp_path: Path) -> None:
    file = tmp_path / "bound.py"
    file.write_text(
        "import sys\nmatch sys.argv:\n"
        "    case [first, *others]: ...\n    case {'a': 1, **rest}: ...\n    case whole: ...\n"
    )
    assert {name for name in ("first", "others", "rest", "whole", "none") if missing(file, name)} == {"none"}
