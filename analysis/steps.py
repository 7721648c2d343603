"""The steps of an experiment: one display of what is done, what is next, and the time left."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from featurize.core.console import printable, progress_display

logger = logging.getLogger("frozenbench")
Progress = Callable[[int, int], None]
"""Called with the numbers of images that are done and in all."""


@dataclass(frozen=True)
class Step:
    """One step of an experiment.

    Attributes:
        title: what is done.
        kind: steps of one kind take times in proportion to their rough seconds.
        seconds: how long it takes, roughly. Only the ratios matter.
        carry_out: does it; it may report the images that are done.
    """

    title: str
    kind: str
    seconds: float
    carry_out: Callable[[Progress], Any]


@dataclass
class TimeLeft:
    """Turns the rough seconds of the steps ahead into seconds, by the time that finished steps took.

    A kind of steps has its own pace as soon as one of them is finished; before that, the pace of all.
    """

    rough: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)

    def note(self, step: Step, seconds: float) -> None:
        """Take a finished step into account."""
        self.rough[step.kind] = self.rough.get(step.kind, 0) + step.seconds
        self.spent[step.kind] = self.spent.get(step.kind, 0) + seconds

    def seconds(self, ahead: Sequence[Step]) -> float:
        """About how long these steps take."""
        return sum(step.seconds * self._pace(step.kind) for step in ahead)

    def _pace(self, kind: str) -> float:
        if kind in self.rough:
            return self.spent[kind] / self.rough[kind]
        if self.rough:
            return sum(self.spent.values()) / sum(self.rough.values())
        return 1.0


class Display(Protocol):
    """Shows where an experiment is."""

    def begin(self, number: int, total: int, seconds_left: float, title: str) -> None:
        """Show that step `number` of `total` begins."""
        ...

    def images(self) -> Any:
        """A context manager that yields a `Progress`."""
        ...


@dataclass
class Steps:
    """Carries out steps and shows them.

    Attributes:
        display: from `steps_display`.
        finished: number of finished steps.
        time_left: what the finished steps say about those ahead.
    """

    display: Display
    finished: int = 0
    time_left: TimeLeft = field(default_factory=TimeLeft)

    def carry_out(self, steps: Sequence[Step], later: Sequence[Step] = ()) -> list[Any]:
        """Carry out steps in order.

        Args:
            steps: what to do now.
            later: what will be done after that, for the number of steps and the time left.

        Returns:
            The result of each step.
        """
        results = []
        total = self.finished + len(steps) + len(later)
        for position, step in enumerate(steps):
            ahead = [*steps[position:], *later]
            self.display.begin(self.finished + 1, total, self.time_left.seconds(ahead), step.title)
            began = time.monotonic()
            with self.display.images() as progress:
                results.append(step.carry_out(progress))
            self.time_left.note(step, time.monotonic() - began)
            self.finished += 1
        return results


@contextmanager
def steps_display() -> Iterator[Display]:
    """A live bar on a terminal, and a line for each step elsewhere; both on standard error.

    Meanwhile the log holds warnings only, and each of them once: many heads have the same to say.
    """
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        message = record.getMessage()
        if message in said:
            return False
        said.add(message)
        return True

    logger.addFilter(is_new)
    try:
        if not logger.isEnabledFor(logging.INFO):  # --quiet
            yield _Silence()
            return
        if not sys.stderr.isatty():
            yield _Lines()
            return
        with _Bar() as bar:
            yield bar
    finally:
        logger.removeFilter(is_new)


class _Silence:
    """Nothing at all."""

    def begin(self, number: int, total: int, seconds_left: float, title: str) -> None:
        pass

    def images(self) -> Any:
        return progress_display("images")


class _Lines:
    """A line for each step, for logs."""

    def begin(self, number: int, total: int, seconds_left: float, title: str) -> None:
        line = f"step {number} of {total}, about {duration(seconds_left)} left: {title}"
        print(printable(line), file=sys.stderr, flush=True)

    def images(self) -> Any:
        return progress_display("images")


class _Bar:
    """A bar of the steps, and below it one of the images while a network runs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        # Without markup: a folder may be called [red].
        text = TextColumn("{task.description}", markup=False)
        left = TextColumn("{task.fields[left]}")
        self.bars = Progress(BarColumn(20), MofNCompleteColumn(), left, text, console=Console(stderr=True))
        self.steps = self.bars.add_task("", left="", total=None)

    def __enter__(self) -> "_Bar":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, number: int, total: int, seconds_left: float, title: str) -> None:
        left = f"about {duration(seconds_left)} left"
        self.bars.update(self.steps, completed=number - 1, total=total, left=left, description=printable(title))

    @contextmanager
    def images(self) -> Iterator[Progress]:
        task = self.bars.add_task("images", left="", visible=False, total=None)
        try:
            yield lambda done, total: self.bars.update(task, completed=done, total=total, visible=True)
        finally:
            self.bars.remove_task(task)


def duration(seconds: float) -> str:
    """A time for readers: `4 s`, `12 min`, `2.0 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
