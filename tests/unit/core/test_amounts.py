"""Times and sizes with units."""

import pytest
from pydantic import BaseModel, ValidationError

from medseg.amounts import Duration, MemorySize, Wait, bytes_text, parse_bytes, parse_seconds, time_text


class _Options(BaseModel):
    time: Duration
    ram: MemorySize


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400), ("1h 30min", 5400), ("1h30min", 5400)]
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "count"), [("8GB", 8 * 10**9), ("8GiB", 8 * 2**30), ("1.5 MB", 1_500_000)])
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "30", "30 minutes", "-5min", "5min!", "GB", "1e3s"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="expected a time such as"):
        parse_seconds(text)
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_bytes(text)


def test_options_take_text_and_numbers():
    assert _Options(time="30min", ram="8GB") == _Options(time=1800, ram=8 * 10**9)
    with pytest.raises(ValidationError):
        _Options(time=0, ram=1)
    with pytest.raises(ValidationError):
        _Options(time="0s", ram=1)


def test_a_wait_may_be_none():
    class Waits(BaseModel):
        wait: Wait

    assert Waits(wait="0s") == Waits(wait=0)
    for wrong in (-1, "-1s", float("inf")):
        with pytest.raises(ValidationError):
            Waits(wait=wrong)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (45, "45 s"), (1800, "30 min"), (5400, "90 min"), (7500, "2 h 05 min")],
)
def test_times_for_people(seconds, text):
    assert time_text(seconds) == text


def test_sizes_for_people():
    assert (bytes_text(6.4e8), bytes_text(2.13e9)) == ("640 MB", "2.1 GB")
