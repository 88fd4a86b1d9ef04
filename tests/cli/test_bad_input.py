"""``krylov solve`` on everything that is wrong: one line, exit code 2, nothing on stdout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

REAL = "%%MatrixMarket matrix coordinate real general\n"
DIAGONAL = REAL + "2 2 2\n1 1 1\n2 2 1\n"


def refused(result, *words):
    """The run ended with one line on stderr that holds the words."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_missing_file(run, tmp_path, flags):
    refused(run("solve", tmp_path / "none.mtx", *flags), "none.mtx", "no such file")


def test_folder(run, tmp_path):
    refused(run("solve", tmp_path), "folder")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a Matrix Market file"),
        ("hello\n1 2 3\n", "not a Matrix Market file"),
        ("%%MatrixMarket vector coordinate real general\n3 1\n1 1\n", "first line"),
        ("%%MatrixMarket matrix coordinate quaternion general\n1 1 1\n1 1 1\n", "quaternion"),
        (REAL, "truncated"),
        (REAL + "2 2 3\n1 1 1\n2 2 1\n", "truncated"),
        ("%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n", "truncated"),
        (REAL + "2 2 1\n1 1 1\n2 2 1\n", "too long"),
        (REAL + "2 x 2\n", "malformed"),
        (REAL + "2 2 2\n1 1 one\n2 2 1\n", "malformed"),
        (REAL + "2 2 2\n1 1 1\n3 2 1\n", "out of bounds"),
        (REAL + "2 2 2\n0 1 1\n2 2 1\n", "out of bounds"),
        (REAL + "2 2 100000000000000\n1 1 1\n", "more memory"),
        (REAL + "1000000000000 1000000000000 1\n1 1 1\n", "singular"),
        (REAL + "2 3 2\n1 1 1\n2 2 1\n", "not square, 2 x 3"),
        (REAL + "0 0 0\n", "no rows"),
        (REAL + "3 3 2\n1 1 1\n3 3 1\n", "singular, 1 of its 3 rows hold no nonzero entry"),
        (REAL + "3 3 3\n1 1 1\n2 1 1\n3 3 1\n", "column 2"),
        (REAL + "2 2 2\n1 1 1\n2 2 0\n", "row 2"),
        (REAL + "2 2 2\n1 1 nan\n2 2 1\n", "NaN or infinite, the first in row 1, column 1"),
        (REAL + "2 2 2\n1 1 1\n2 2 -inf\n", "row 2, column 2"),
        (REAL + "2 2 2\n1 1 1e999\n2 2 1\n", "NaN or infinite"),
        (
            "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 99999999999999999999\n",
            "out of range",
        ),
    ],
)
def test_bad_matrices(run, market, text, words):
    refused(run("solve", market(text)), words)


def test_broken_gzip(run, tmp_path):
    rows = 2000
    rng = np.random.default_rng(0)
    text = (
        REAL
        + f"{rows} {rows} {rows}\n"
        + "".join(f"{i} {i} {rng.random()}\n" for i in range(1, rows + 1))
    )
    zipped = gzip.compress(text.encode())
    broken = {
        "cut": zipped[:-500],
        "flipped": zipped[:5000] + b"xxxx" + zipped[5004:],
        "checksum": zipped[:-8] + b"12345678",
        "not-zipped": b"hello",
        "empty": b"",
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.mtx.gz"
        path.write_bytes(content)
        refused(run("solve", path), "not a Matrix Market" if name == "empty" else "gzip")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n3\n", "has 3 entries, but the matrix has 2 rows"),
        ("", "has 0 entries"),
        ("1\nnan\n", "NaN or infinite, the first is entry 2"),
        ("one\ntwo\n", "not a vector"),
        ("1 2\n3 4\n5 6\n", "3 x 2"),
        ("1 2\n3 inf\n", "NaN or infinite, the first is entry 2 of column 2"),
        ("%%MatrixMarket matrix array real general\n3 2\n1\n2\n3\n4\n5\n6\n", "3 x 2"),
        ("%%MatrixMarket matrix array real general\n2 1\n1\n", "truncated"),
    ],
)
def test_bad_right_hand_sides(run, market, text, words):
    refused(run("solve", market(DIAGONAL), "--rhs", market(text, "b.txt")), "b.txt", words)


def test_missing_right_hand_side(run, market):
    refused(run("solve", market(DIAGONAL), "--rhs", "none.txt"), "none.txt", "no such file")


def test_bad_npy(run, market, tmp_path):
    path = tmp_path / "b.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00garbage")
    refused(run("solve", market(DIAGONAL), "--rhs", path), "broken .npy")
    np.save(path, np.array(["a", "b"]))
    refused(run("solve", market(DIAGONAL), "--rhs", path), "not numbers")
    np.save(path, np.array([{}, {}]), allow_pickle=True)
    refused(run("solve", market(DIAGONAL), "--rhs", path), "broken .npy")


def test_zero_diagonal_with_jacobi(run, market):
    path = market(REAL + "2 2 3\n1 1 1\n1 2 1\n2 1 1\n")
    refused(run("solve", path, "--precond", "jacobi"), "row 2", "--precond none")


@pytest.mark.parametrize("precond", ["jacobi", "lbfgs", "ritz", "nystrom"])
def test_neumann_takes_no_preconditioner(run, market, precond):
    refused(run("solve", market(), "--method", "neumann", "--precond", precond), "neumann")


@pytest.mark.parametrize("precond", ["lbfgs", "ritz"])
def test_bicgstab_teaches_nothing(run, market, precond):
    refused(run("solve", market(), "--method", "bicgstab", "--precond", precond), "learns from cg")
    indefinite = market("%%MatrixMarket matrix coordinate real symmetric\n2 2 2\n1 1 2\n2 2 -3\n")
    refused(run("solve", indefinite, "--precond", precond), "positive definite")


@pytest.mark.parametrize("precond", ["lbfgs", "ritz", "nystrom"])
def test_low_rank_preconditioners_need_a_self_adjoint_matrix(run, market, precond):
    path = market(REAL + "2 2 3\n1 1 2\n1 2 1\n2 2 2\n")
    refused(run("solve", path, "--precond", precond), "self-adjoint", "nonsymmetric")
    refused(run("solve", path, "--method", "cg", "--precond", precond), "self-adjoint")


def test_nystrom_needs_a_semidefinite_matrix(run, market):
    path = market("%%MatrixMarket matrix coordinate real symmetric\n2 2 2\n1 1 2\n2 2 -3\n")
    refused(run("solve", path, "--precond", "nystrom"), "not positive semidefinite")


def test_precond_size_needs_a_preconditioner_that_has_one(run, market):
    refused(run("solve", market(), "--precond-size", "4"), "--precond-size", "none")
    refused(run("solve", market(), "--precond", "jacobi", "--precond-size", "4"), "jacobi")
    result = run("solve", market(), "--precond", "ritz", "--precond-size", "0")
    assert result.exit_code == 2


@pytest.mark.parametrize("option", ["--plot", "--out"])
def test_outputs_are_tried_before_the_work(run, tmp_path, option):
    if option == "--plot":
        pytest.importorskip("matplotlib")
    suffix = ".png" if option == "--plot" else ".npy"
    # The matrix does not even exist: the output is complained about first.
    gone = tmp_path / "none" / f"x{suffix}"
    refused(run("solve", "none.mtx", option, gone), "does not exist")
    refused(run("solve", "none.mtx", option, tmp_path / "x.doc"), "must end in")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    refused(run("solve", "none.mtx", option, folder), "is a folder")
    good = tmp_path / f"x{suffix}"
    refused(run("solve", "none.mtx", option, good), "none.mtx: no such file")
    assert not good.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system")
def test_unwritable_folder(run):
    refused(run("solve", "none.mtx", "--out", "/proc/x.npy"), "cannot be written")


def test_input_is_not_overwritten(run, market, tmp_path):
    path = market()
    before = path.read_text()
    refused(run("solve", path, "--out", path), "overwrite an input")
    (tmp_path / "link.mtx").symlink_to(path)
    refused(run("solve", path, "--out", tmp_path / "link.mtx"), "overwrite an input")
    assert path.read_text() == before


@pytest.mark.parametrize("option", ["--rtol", "--atol"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_bad_tolerances(run, market, option, value):
    result = run("solve", market(), option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert "Traceback" not in result.stderr
