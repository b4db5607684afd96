"""What people read: whole words in log files, one line per stage."""

import io

from rich.console import Console

from medseg.console import ConsoleReporter


def shown(draw) -> str:
    stream = io.StringIO()
    reporter = ConsoleReporter(Console(file=stream, width=120, highlight=False))
    draw(reporter)
    reporter.close()
    return stream.getvalue()


def test_numbers_stand_right_and_names_left_and_none_is_cut():
    rows = [("lung_right", "0.969 (0.962-0.975)", "6"), ("lung", "not defined", "12")]
    lines = shown(lambda r: r.table("", ("structure", "dice (95%)", "cases"), rows)).splitlines()
    assert "0.969 (0.962-0.975)" in lines[1]
    assert lines[1].startswith("lung_right")
    assert lines[1].rstrip().endswith("6")
    assert lines[2].rstrip().endswith("12")


def test_text_that_looks_like_markup_is_shown_as_text():
    text = shown(lambda r: r.table("", ("case", "why"), [("[bold]a[/bold]", "[red]x")]))
    assert "[bold]a[/bold]" in text
    assert "[red]x" in text


def test_a_reused_stage_says_so():
    assert "reused" in shown(lambda r: r.stage_done("train", "8 epochs", None))
    assert "1 m 05 s" in shown(lambda r: r.stage_done("train", "8 epochs", 65.0))
