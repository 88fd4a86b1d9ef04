"""``krylov demo``: real systems solved beside SciPy, and a network trained, in tables and pictures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from rich.console import Console

import krylov
from krylov.cli.demo_screen import DemoScreen
from krylov.cli.demo_table import results_table
from krylov.cli.demo_training import (
    Training,
    missing,
    plot_training,
    run_training,
    training_table,
    training_words,
)
from krylov.cli.errors import InputError
from krylov.cli.lessons import Lessons, lessons_table, lessons_words, run_lessons
from krylov.cli.lessons_plot import plot_lessons
from krylov.cli.outputs import check_output
from krylov.cli.plots import has_matplotlib, plot_demo
from krylov.cli.race import Race, run_race
from krylov.cli.report import console
from krylov.cli.systems import BUNDLED, GENERATED

_PICTURES = ("krylov-demo.png", "krylov-sequence.png", "krylov-training.png")
_RTOL = 1e-6

#: Seconds and timed rounds spent on a system at most, unless a single round takes longer.
_BUDGET, _ROUNDS = 5.0, 7

#: Seconds after which the budget of each further system is this one: slow machines finish too.
_PATIENCE, _HURRY = 40.0, 0.5

#: Seconds after which no further system is begun.
_LIMIT = 75.0


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder for the pictures.  [default: this one]",
)
@click.option("--no-plot", is_flag=True, help="Draw no picture.")
@click.option("--quick", is_flag=True, hidden=True, help="Small systems, one run: for tests.")
def demo(out: Path, no_plot: bool, quick: bool) -> None:
    """Solve real systems beside SciPy, a sequence of systems by learning, and train a network beside Adam."""
    pictures = None
    screen = console(stderr=True)
    if not no_plot and not has_matplotlib():
        screen.print("No picture: it needs matplotlib, pip install 'krylov[plot]'", markup=False)
    elif not no_plot:
        pictures = [_picture_in(out, name) for name in _PICTURES]
    busy = _others_are_busy()
    began = time.perf_counter()
    races, left_out = _run_races(screen, began, quick)
    page = console()
    page.print(results_table(races))
    page.print(_conditions([race.rounds for race in races]), markup=False)
    if busy:
        page.print(busy, markup=False, style="yellow")
    for race in races:
        if race.system.verdict is not None:
            page.print(f"{race.system.name}: {race.system.verdict(race.x)}", markup=False)
    lessons = training = None
    if time.perf_counter() - began <= _LIMIT:
        lessons = _run_lessons(screen, quick)
        page.print()
        page.print(lessons_table(lessons))
        page.print(lessons_words(lessons), markup=False)
    if reason := missing():
        left_out.append(reason)
    else:  # takes as long on every machine
        training = _run_training(screen, quick)
        page.print()
        page.print(training_table(training))
        page.print(training_words(training), markup=False)
    for reason in left_out:
        screen.print(f"Left out: {reason}", markup=False)
    if pictures is not None:
        plot_demo(pictures[0], races, _RTOL)
        click.echo(f"picture: {pictures[0].absolute()}")
        if lessons is not None:
            plot_lessons(pictures[1], lessons)
            click.echo(f"picture: {pictures[1].absolute()}")
        if training is not None:
            plot_training(pictures[2], training)
            click.echo(f"picture: {pictures[2].absolute()}")
    click.echo(f"done in {time.perf_counter() - began:.0f} s")


def _picture_in(folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made there ({error.strerror})") from None
    picture = folder / name
    check_output(picture, suffixes=(".png",))
    return picture


def _run_races(screen: Console, began: float, quick: bool) -> tuple[list[Race], list[str]]:
    races: list[Race] = []
    left_out: dict[str, None] = {}  # ordered, each reason once
    with DemoScreen(screen, _RTOL) as view:
        for make, size, quick_size in (*GENERATED, *BUNDLED):
            spent = time.perf_counter() - began
            if races and spent > _LIMIT:
                left_out[f"what comes after {_LIMIT:.0f} s; this machine is slow or busy"] = None
                break
            view.announce(f"building: {(make.__doc__ or '').splitlines()[0]}")
            try:
                system = make(quick_size if quick else size)
            except ImportError:
                left_out["scikit-learn's data, pip install 'krylov[bench]'"] = None
                continue
            view.begin(system)
            race = run_race(
                system,
                rtol=_RTOL,
                budget=_BUDGET if spent < _PATIENCE else _HURRY,
                most=1 if quick else _ROUNDS,
                stop=view if view.enabled else None,
                announce=view.announce,
            )
            races.append(race)
            view.finished(race)
    return races, list(left_out)


def _run_lessons(screen: Console, quick: bool) -> Lessons:
    if not screen.is_terminal:
        return run_lessons(quick, lambda text: None)
    with screen.status("", spinner="line") as status:
        return run_lessons(quick, status.update)


def _run_training(screen: Console, quick: bool) -> Training:
    if not screen.is_terminal:
        return run_training(quick, lambda text: None)
    with screen.status("", spinner="line") as status:
        return run_training(quick, status.update)


def _others_are_busy() -> str:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < 0.75 * cores:
        return ""
    return (
        f"Other programs kept this machine busy (load {load:.1f} on {cores} cores): such times, "
        "above all those of several threads, say little."
    )


def _conditions(rounds: list[int]) -> str:
    few, many = min(rounds), max(rounds)
    threads = krylov.build_config()["threads"]
    return (
        f"Both stop at |r| <= {_RTOL:.0e} |b|; true residual: |b - A x| / |b| computed from x. "
        f"Times: the best of {few if few == many else f'{few} to {many}'} "
        f"run{'s' if many > 1 else ''} each, by turns, on {threads} "
        f"thread{'s' if threads > 1 else ''} for each where it can use them "
        "(SciPy: dense products only)."
    )
