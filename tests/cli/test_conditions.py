"""--fail-on: conditions are read strictly, and hold where the analysis says so."""

from pathlib import Path

import pytest
from builders import op, step, write

import probe
from probe.cli.conditions import parse
from probe.errors import GateFailed, InputError, UsageError


@pytest.fixture
def analysis(tmp_path: Path) -> probe.Analysis:
    tiny = [op("aten::add", 10 * i, 2) for i in range(600)]
    return probe.analyze(write(tmp_path, [step(1, 0, 6000), *tiny]))


@pytest.mark.parametrize("text", ["step>5ms", "step > 0.005 s", "saving>1%", "code=H01", "code=F06, step>5ms"])
def test_what_holds_fails_the_gate(analysis: probe.Analysis, text: str) -> None:
    with pytest.raises(GateFailed):
        for condition in parse(text):
            condition.check(analysis)


@pytest.mark.parametrize("text", ["step>7ms", "saving>100%", "code=F06", "code=f06"])
def test_what_does_not_hold_passes(analysis: probe.Analysis, text: str) -> None:
    assert all(condition.check(analysis) is None for condition in parse(text))


def test_what_is_not_known_cannot_pass_a_gate(analysis: probe.Analysis) -> None:
    with pytest.raises(InputError, match="not known"):
        parse("peak_memory>1GiB")[0].check(analysis)


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"--fail-on code=F99: no rule .F99., did you mean F"):
        parse("code=F99")


@pytest.mark.parametrize(
    "text", ["", "step", "step>5", "step<5ms", "saving>5ms", "code=fast", "speed>1%", "step>5ms,,"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write it like"):
        parse(text)
