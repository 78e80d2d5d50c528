"""Quantities are printed with the right prefix, and sizes read back."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UsageError
from probe.units import (
    UNKNOWN,
    format_bytes,
    format_bytes_per_s,
    format_fraction,
    format_si,
    format_time,
    format_value,
    parse_size,
    runs,
    runs_text,
    significant,
    spans_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (9.996e-4, "1.00 ms"),
        (1.5e-6, "1.50 µs"),
        (3.4e-10, "0.340 ns"),
        (12.0, "12.0 s"),
        (300.0, "5.0 min"),
        (0.0, "0 s"),
        (-0.002, "-2.00 ms"),
        (None, UNKNOWN),
        (math.nan, UNKNOWN),
        (math.inf, UNKNOWN),
    ],
)
def test_times(seconds: float | None, text: str) -> None:
    assert format_time(seconds) == text


def test_sizes_are_binary_and_rates_decimal() -> None:
    assert format_bytes(1536) == "1.50 KiB"
    assert format_bytes(1 << 30) == "1 GiB"
    assert format_bytes(12) == "12 B"
    assert format_bytes_per_s(4.31e12) == "4.31 TB/s"
    assert format_si(999.96e9, "FLOP/s") == "1.00 TFLOP/s"
    assert format_si(0.25, "x") == "0.250 x"
    assert format_si(4.2e22, "FLOP") == "42.0 ZFLOP"


def test_a_measurement_is_printed_by_its_unit() -> None:
    assert format_value(1e-9, "s") == "1.00 ns"
    assert format_value(2e9, "B/s") == "2.00 GB/s"
    assert format_value(0.5, "fraction") == format_fraction(0.5) == "50.0 %"


@given(st.floats(1e-12, 1e15))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=0.005)


@given(st.integers(1, 10_000), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_a_binary_size_is_read_exactly(number: int, unit: str) -> None:
    power = ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert parse_size(f"{number}{unit}") == number * 1024**power


@given(st.lists(st.integers(-30, 30)))
def test_runs_hold_every_number_once(numbers: list[int]) -> None:
    found = runs(numbers)
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(set(numbers))
    assert all(after - before > 1 for (_, before), (after, _) in pairwise(found))


def test_runs_of_numbers_for_people() -> None:
    assert runs_text([3, 0, 1, 2, 7, 7]) == "0–3, 7"
    assert runs_text(range(0, 9, 2), 3) == "0, 2, 4, …" and runs_text(range(0, 5, 2), 3) == "0, 2, 4"
    assert runs_text([]) == "" and spans_text([(1, 10**12)]) == "1–1000000000000"


@pytest.mark.parametrize(("text", "size"), [("64", 64), ("1.5 kib", 1536), ("2GB", 2_000_000_000), (" 16KiB ", 16384)])
def test_sizes_people_type(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-4", "4XiB", "1e9"])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)
