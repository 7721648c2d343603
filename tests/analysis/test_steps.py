"""The display of steps: the time left, and what the log holds meanwhile."""

import logging

import pytest
from tiny_steps import Recorded

from analysis import steps
from analysis.steps import Step, Steps, TimeLeft, duration, steps_display

logger = logging.getLogger("frozenbench")


def test_the_time_left_follows_the_time_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps worth 10 s each that take 30 s: after the first, each of those ahead counts as 30 s."""
    clock = [0.0]

    def work(_: object) -> None:
        clock[0] += 30

    monkeypatch.setattr(steps.time, "monotonic", lambda: clock[0])
    shown = Recorded()
    carried_out = Steps(shown)
    first = [Step(f"s{number}", "a", 10.0, work) for number in range(2)]
    then = [Step("s2", "a", 10.0, work)]
    carried_out.carry_out(first, later=then)
    carried_out.carry_out(then)
    assert shown.begun == [(1, 3, 30.0), (2, 3, 60.0), (3, 3, 30.0)]
    assert shown.titles == ["s0", "s1", "s2"]


def test_each_kind_of_steps_has_its_own_pace() -> None:
    left = TimeLeft()
    left.note(Step("", "slow", 10.0, print), 100.0)
    left.note(Step("", "fast", 10.0, print), 1.0)
    slow, fast, other = (Step("", kind, 10.0, print) for kind in ("slow", "fast", "other"))
    assert left.seconds([slow]) == 100
    assert left.seconds([fast, fast]) == 2
    assert left.seconds([other]) == pytest.approx(50.5)


def test_results_come_in_order() -> None:
    assert Steps(Recorded()).carry_out([Step("", "a", 1, lambda _: 1), Step("", "a", 1, lambda _: 2)]) == [1, 2]


def test_the_log_holds_each_warning_once(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    with steps_display() as display:
        display.begin(1, 2, 100, "svm on photos [red]")
        logger.info("not shown")
        logger.warning("constant features")
        logger.warning("constant features")
        logger.warning("few images")
    logger.info("shown")
    assert [record.getMessage() for record in caplog.records] == ["constant features", "few images", "shown"]
    assert capsys.readouterr().err == "step 1 of 2, about 2 min left: svm on photos [red]\n"


def test_quiet_is_quiet(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.WARNING)
    with steps_display() as display:
        display.begin(1, 2, 100, "svm")
        with display.images() as progress:
            progress(1, 2)
    assert capsys.readouterr().err == ""


def test_a_live_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with steps_display() as display:
        display.begin(3, 7, 30, "svm on photos [red]")
        with display.images() as progress:
            progress(5, 10)
    shown = capsys.readouterr().err
    assert "2/7" in shown
    assert "about 30 s left" in shown
    assert "svm on photos [red]" in shown


def test_durations() -> None:
    assert [duration(seconds) for seconds in (4, 29, 95, 7100, 7300)] == ["4 s", "29 s", "2 min", "118 min", "2.0 h"]
