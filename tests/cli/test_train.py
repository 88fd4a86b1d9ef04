"""``krylov train``: runs in folders, resumed, and refused where options make no sense."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from krylov.cli.runs import read_json_lines

torch = pytest.importorskip("torch")

TABLE = "a,b,kind\n" + "".join(
    f"{k % 7},{k % 5},{'yes' if k % 7 > k % 5 else 'no'}\n" for k in range(80)
)
SMALL = ("--sizes", "8", "--steps", "3")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def train(run, table, tmp_path):
    """Train a small network on the table."""

    def runner(*arguments, out="run", data=True):
        given = ("--data", "csv", "--path", table, *SMALL) if data else ()
        return run("train", "--out", tmp_path / out, *given, *arguments)

    return runner


def done(result, code=0):
    assert result.exit_code == code, result.output
    return result


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--precond", "lbfgs", "--precond-size", 4),
        ("--curvature", "hybrid", "--gradient-samples", "geometric:20:1.5"),
        ("--gradient-samples", "geometric-variance:20:1.2:0.5", "--curvature-samples", "10"),
        (
            "--gradient-samples",
            "variance:20:0.5",
            "--evaluation",
            "held_out",
            "--sampling",
            "fresh",
        ),
        ("--optimizer", "newton_cg", "--line-search", "armijo", "--tol", 0.3, "--batch", 32),
        ("--solver", "dense", "--line-search", "grid"),
        ("--optimizer", "newton_cg", "--line-search", "grid"),
        (
            *("--optimizer", "newton_cg", "--damping-rule", "adapted", "--curvature", "hessian"),
            *("--solver", "cg", "--precond", "jacobi", "--inner", 5),
        ),
        ("--optimizer", "adam", "--lr", 0.01, "--batch", 16),
        ("--optimizer", "sgd", "--momentum", 0.5, "--gradient-samples", "40"),
        ("--optimizer", "neumann", "--warmup", 1, "--reset", 1, "--spectrum", 2),
        ("--optimizer", "lbfgs", "--inner", 3, "--dtype", "float64"),
        ("--model", "autoencoder", "--activation", "sigmoid", "--init", "sparse"),
        ("--task", "regression", "--target", "a", "--drop", "kind"),
    ],
)
def test_trains(train, tmp_path, options):
    result = done(train(*options))
    folder = tmp_path / "run"
    records = read_json_lines(folder / "log.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[-1]["loss"] < records[0]["loss"]
    for words in ("training loss", "held-out loss", "test loss", "gradients of all the data"):
        assert words in result.stdout
    state = torch.load(folder / "model.pt", weights_only=True)
    best = torch.load(folder / "checkpoint.pt", weights_only=True)["best"]["model"]
    assert all(torch.equal(state[name], best[name]) for name in best)


def test_digits_and_cnn(run, tmp_path):
    pytest.importorskip("sklearn")
    options = ("--model", "cnn", "--sizes", "2", "--optimizer", "adam", "--steps", "1")
    record = json.loads(done(run("train", "--out", tmp_path / "r", "--json", *options)).stdout)
    assert record["samples"] == {"train": 1437, "held_out": 180, "test": 180}
    assert 0 < record["test_error"] < 1
    assert record["parameters"] == 2 * 10 + 2 * 4 * 4 * 10 + 10


def test_json(train):
    record = json.loads(done(train("--json")).stdout)
    assert record["ending"] == "STEPS"
    assert record["last"]["step"] == 3
    assert record["best"]["step"] == record["last"]["best_step"]


def parameters(folder):
    return list(torch.load(folder / "model.pt", weights_only=True).values())


@pytest.mark.parametrize(
    ("samples", "warmup", "reset"),
    [("all", 4, 8), ("24", 2, 4), ("geometric:16:2", 1, 2 + 4), ("1000", 4, 8)],
)
def test_epochs_of_neumann_are_those_of_its_samples(train, tmp_path, samples, warmup, reset):
    """64 samples of which some are taken, in mini-batches of 16: an epoch of warm-up, and two to the reset."""
    options = ("--optimizer", "neumann", "--batch", 16, "--warmup", 1, "--reset", 2)
    done(train(*options, "--gradient-samples", samples, "--steps", 3))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    clock = {"step": warmup + reset, "inner": reset, "length": reset}
    assert state["optimizer"]["neumann"]["clock"] == clock


def test_resume_continues_with_its_own_settings(train, tmp_path):
    done(train("--steps", "2", "--damping", "0.1", "--precond", "ritz", "--precond-size", "3"))
    done(train("--resume", "--steps", "4", data=False))
    whole = ("--steps", "4", "--damping", "0.1", "--precond", "ritz", "--precond-size", "3")
    done(train(*whole, out="whole"))
    logs = [read_json_lines(tmp_path / name / "log.jsonl") for name in ("run", "whole")]
    for log in logs:
        for record in log:
            del record["seconds"]
    assert logs[0] == logs[1]
    assert all(map(torch.equal, parameters(tmp_path / "run"), parameters(tmp_path / "whole")))


def test_resume_keeps_the_spectrum(train, tmp_path):
    options = ("--optimizer", "sgd", "--spectrum", "2")
    done(train("--steps", "2", *options))
    done(train("--resume", "--steps", "4", data=False))
    done(train("--steps", "4", *options, out="whole"))
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["spectrum"]
        for name in ("run", "whole")
    )
    assert [record["step"] for record in first["records"]] == [0, 2, 4]
    assert first == second


def test_resume_may_repeat_but_not_change_options(train):
    done(train())
    done(train("--resume", "--steps", "4"))  # with --data, --path and --sizes as they were
    refused(train("--resume", "--lr", "0.5"), "begun with another --lr", "None instead of 0.5")
    refused(train("--resume", "--sizes", "9"), "another --sizes, 8 instead of 9")


def test_a_run_is_not_overwritten(train, tmp_path):
    done(train())
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    refused(train(), "already holds a run", "--resume")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_nothing_to_resume(train, tmp_path):
    refused(train("--resume"), "no run there to resume")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    for text in ("hello", "[]", "{}"):
        (tmp_path / "run" / "config.json").write_text(text)
        refused(train("--resume"), "config.json", "not the settings")


def test_damaged_checkpoint(train, tmp_path):
    done(train())
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"hello")
    result = train("--resume", "--steps", "9")
    assert result.exit_code == 1
    assert "not a checkpoint" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gradient-samples", "many"), "--gradient-samples many: must be one of all, N, geom"),
        (("--gradient-samples", "geometric:10"), "geometric:10: must be one of"),
        (("--gradient-samples", "variance:10:0.5:3"), "must be one of"),
        (("--gradient-samples", "geometric:1000:1.2"), "maximum must be at least initial, 1000"),
        (("--gradient-samples", "geometric:10:0.5"), "factor"),
        (("--gradient-samples", "0"), "size"),
        (("--curvature-samples", "variance:x:0.5"), "--curvature-samples"),
        (("--curvature-samples", "10", "--optimizer", "adam"), "for HessianFree"),
        (("--curvature", "hybrid", "--optimizer", "newton_cg"), "hessian, ggn"),
        (("--tol", "1", "--optimizer", "newton_cg"), "--tol"),
        (("--gradient-samples", "variance:10:0.5", "--optimizer", "adam"), "needs HessianFree"),
        (("--gradient-samples", "variance:9:0.5", "--optimizer", "neumann"), "needs HessianFree"),
        (("--solver", "dense", "--curvature", "hessian"), "take curvature='ggn'"),
        (("--solver", "dense", "--precond", "ritz"), "takes no preconditioner"),
        (("--solver", "dense", "--inner", "3"), "takes no stop"),
        (("--solver", "dense", "--optimizer", "newton_cg"), "cg, flexible_cg"),
        (("--evaluation", "held_out", "--held-out", "0"), "needs held_out"),
        (("--precond-size", "3"), "--precond-size"),
        (("--sizes", "0"), "positive sizes"),
        (("--sizes", "a,b"), "positive sizes"),
        (
            ("--loss", "cross-entropy", "--task", "regression", "--target", "a", "--drop", "kind"),
            "no classes",
        ),
        (("--loss", "mse"), "2 classes"),
        (("--model", "cnn"), "use mlp"),
        (("--target", "z"), "no column 'z'"),
        (("--lr", "nan"), "--lr"),
        (("--lr", "0"), "--lr"),
        (("--target-loss", "inf"), "--target-loss must be finite"),
        (("--train-size", "1000"), "train_size asks for 1000"),
    ],
)
def test_bad_options(train, tmp_path, options, words):
    refused(train(*options), words)
    assert not list(tmp_path.glob("run/*"))


def test_bad_data(run, train, table, tmp_path):
    table.write_text(TABLE.replace("3,3,no", "3,nan,no", 1))
    refused(train(), f"{table}: row 5, column 'b': nan")
    table.unlink()
    refused(train(), f"{table}: no such file")
    refused(run("train", "--out", tmp_path / "r", "--data", "mnist"), "needs a path")
    refused(run("train", "--out", tmp_path / "r", "--data", "mnist", "--path", tmp_path), "idx")
    assert not (tmp_path / "r" / "config.json").exists()


def test_bad_folder(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run("train", "--out", tmp_path / "file" / "run"), "no folder can be made")


def test_without_torch(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(run("train", "--out", tmp_path / "run"), "pip install 'krylov[torch]'")
    assert not (tmp_path / "run").exists()


def test_without_scikit_learn(run, tmp_path, monkeypatch):
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(run("train", "--out", tmp_path / "run"), "pip install scikit-learn")


def test_diverging_run_fails_with_the_last_good_state(train, tmp_path):
    options = ("--optimizer", "sgd", "--lr", "1e30", "--task", "regression")
    result = train(*options, "--target", "a", "--drop", "kind", "--steps", "50")
    assert result.exit_code == 1
    assert "lower the learning rate" in result.stderr
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] >= 0


def test_dense_steps_and_the_grid_are_those_of_the_options(train, tmp_path):
    """Steps are exact, and one that Armijo's rule would reject is shortened instead."""
    options = ("--solver", "dense", "--damping", "1e-6", "--steps", "6")
    done(train(*options, out="grid"))
    done(train(*options, "--line-search", "armijo", out="armijo"))
    grid, armijo = (
        [record["optimizer"] for record in read_json_lines(tmp_path / name / "log.jsonl")[1:]]
        for name in ("grid", "armijo")
    )
    assert all(step["products"] == 0 and step["iterations"] == 1 for step in grid)
    assert any(step["rho"] is not None and step["rho"] < 0 and step["accepted"] for step in grid)
    assert not any(
        step["rho"] is not None and step["rho"] < 0 and step["accepted"] for step in armijo
    )


def test_a_network_too_large_for_dense_steps_is_told(train, monkeypatch):
    monkeypatch.setattr("krylov.torch.optim.solvers.dense.available_bytes", lambda device: 1000)
    result = train("--solver", "dense")
    assert result.exit_code == 1
    assert "solver='dense' would need" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_the_iteration_and_resumes(table, tmp_path):
    command = [sys.executable, "-m", "krylov.cli", "train", "--out", str(tmp_path / "run")]
    options = ["--data", "csv", "--path", str(table), "--optimizer", "adam", "--steps", "1000000"]
    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size > 2000):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    steps = [record["step"] for record in read_json_lines(log)]
    assert steps == list(range(len(steps)))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == steps[-1]
    more = [*command, "--resume", "--steps", str(steps[-1] + 2)]
    subprocess.run(more, check=True, capture_output=True, timeout=60)
    assert [record["step"] for record in read_json_lines(log)] == list(range(steps[-1] + 3))
