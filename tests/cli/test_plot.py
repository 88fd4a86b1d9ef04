"""``krylov plot``: the curves of runs, finished or not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from krylov.cli.curves import AXES, points
from krylov.cli.runs import RunLog, read_run

pytest.importorskip("matplotlib")


def record(step, **others):
    return {
        "step": step,
        "loss": 2.0 / (step + 1),
        "held_out_loss": 2.1 / (step + 1),
        "error": None,
        "data_passes": 3.0 * step,
        "gradient_equivalents": 4.0 * step,
        "seconds": {"total": 0.1 * step},
    } | others


@pytest.fixture
def log(tmp_path):
    def write(name, records, end="\n"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, records)) + end)
        return folder

    return write


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    monkeypatch.setattr("krylov.cli.curves.save", lambda figure, path: figures.append(figure))
    return figures


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_picture(run, log, tmp_path, suffix):
    runs = [log("one", [record(k) for k in range(5)]), log("two", [record(0)])]
    picture = tmp_path / f"curves.{suffix}"
    result = run("plot", *runs, "-o", picture)
    assert result.exit_code == 0, result.output
    assert f"picture: {picture}" in result.stdout
    assert picture.stat().st_size > 1000


def test_four_panels_with_their_points(run, log, drawn, tmp_path):
    run("plot", log("one", [record(k) for k in range(3)]), "-o", tmp_path / "c.png")
    panels = drawn[0].axes
    assert [panel.get_xlabel() for panel in panels] == list(AXES.values())
    for panel, factor in zip(panels, (1, 3, 4, 0.1), strict=True):
        solid, dashed = panel.lines[:2]
        assert list(solid.get_xdata()) == pytest.approx([0, factor, 2 * factor])
        assert list(solid.get_ydata()) == pytest.approx([2.0, 1.0, 2 / 3])
        assert list(dashed.get_ydata()) == pytest.approx([2.1, 1.05, 0.7])
        assert panel.get_yscale() == "log"
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["one", "held out"]


def test_options(run, log, drawn, tmp_path):
    folder = log("one", [record(k, error=0.5 / (k + 1)) for k in range(3)])
    run("plot", folder, "-o", tmp_path / "c.png", "--what", "error", "--linear")
    assert drawn[0].axes[0].get_ylabel() == "error"
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_spectra(run, log, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr("krylov.cli.spectra_plot.save", lambda figure, path: figures.append(figure))
    ends = [record(k, spectrum={"max": 3.0 + k, "min": -0.1 * k}) for k in (0, 2)]
    folder = log("one", [ends[0], record(1), ends[1]])
    result = run("plot", folder, "-o", tmp_path / "c.png", "--what", "spectrum")
    assert result.exit_code == 0, result.output
    above, below = figures[0].axes
    for panel, values in ((above, [3.0, 5.0]), (below, [0.0, -0.2])):
        assert list(panel.lines[0].get_xdata()) == [0, 2]
        assert list(panel.lines[0].get_ydata()) == pytest.approx(values)
    plain = log("two", [record(0)])
    refused(run("plot", plain, "-o", tmp_path / "c.png", "--what", "spectrum"), "no spectrum")


def test_runs_of_the_same_name_are_told_apart(run, log, drawn, tmp_path):
    runs = [log(f"{name}/run", [record(0), record(1)]) for name in ("a", "b")]
    run("plot", *runs, "-o", tmp_path / "c.png")
    texts = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert texts == [str(runs[0]), str(runs[1]), "held out"]


def test_a_run_that_is_still_going(log):
    folder = log("one", [record(0), record(1)], end='\n{"step": 2, "lo')
    assert [entry["step"] for entry in read_run(folder).records] == [0, 1]
    assert read_run(folder / "log.jsonl").name == "log"


def test_gaps_are_left_out():
    gaps = RunLog("x", [record(0), record(1, loss=None), {"step": 2}])
    assert points(gaps, "step", "loss") == ([0.0], [2.0])


def test_zero_losses_are_no_error(run, log, tmp_path):
    folder = log("one", [record(0), record(1, loss=0.0, held_out_loss=0.0)])
    assert run("plot", folder, "-o", tmp_path / "c.png").exit_code == 0
    folder = log("two", [record(0, loss=0.0, held_out_loss=None)])
    assert run("plot", folder, "-o", tmp_path / "c.png").exit_code == 0


def test_bad_input(run, log, tmp_path):
    picture = tmp_path / "c.png"
    refused(run("plot", tmp_path / "none", "-o", picture), "none: no run there")
    refused(run("plot", tmp_path, "-o", picture), "no run there")
    refused(run("plot", log("empty", [], end=""), "-o", picture), "the log is empty")
    text = tmp_path / "text.jsonl"
    for content in ("hello\n", "[1]\n", '{"a": 1}\n'):
        text.write_text(content)
        refused(run("plot", text, "-o", picture), "line 1 is no record")
    text.write_bytes(b"\xff\xfe\n")
    refused(run("plot", text, "-o", picture), "not a text file")
    good = log("good", [record(0)])
    refused(run("plot", good, "--what", "error", "-o", picture), "no error in its log")
    refused(run("plot", good, "-o", tmp_path / "c.doc"), "must end in")
    refused(run("plot", good, "-o", tmp_path / "none" / "c.png"), "does not exist")
    assert run("plot").exit_code == 2
    assert not picture.exists()


def test_without_matplotlib(run, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(run("plot", log("one", [record(0)])), "pip install 'krylov[plot]'")


def test_plot_needs_no_torch(log, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from krylov.cli import main; "
        f"main(['plot', {str(log('one', [record(0)]))!r}, '-o', {str(tmp_path / 'c.png')!r}])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
