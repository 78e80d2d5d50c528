"""Compare text with a golden file; on a difference leave what was got beside it."""

from pathlib import Path

FOLDER = Path(__file__).parent / "golden_files"


def assert_golden(name: str, text: str) -> None:
    """Equal to tests/golden_files/<name>; rename the .got file to accept a change that is meant."""
    expected = FOLDER / name
    got = expected.with_name(expected.name + ".got")
    lines = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if expected.exists() and expected.read_text() == lines:
        got.unlink(missing_ok=True)
        return
    got.write_text(lines)
    assert expected.exists(), f"no golden file yet; look at {got} and rename it"
    assert expected.read_text() == lines, f"differs from {expected}; what was got is in {got}"
