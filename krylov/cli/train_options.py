"""The options of ``krylov train`` that make a run what it is; each is a field of `Settings`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["settings_options"]


def sizes(value: Any) -> tuple[int, ...]:
    """Read 512,256."""
    if isinstance(value, tuple):
        return value
    try:
        found = tuple(int(part) for part in str(value).split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{value!r} is not a list of positive sizes, such as 512,256")
    return found


def _choice(*names: str) -> click.Choice[str]:
    return click.Choice(list(names))


_COUNT = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_NOT_NEGATIVE = click.FloatRange(min=0)
_SHARE = click.FloatRange(min=0, max=1, max_open=True)
_SCHEDULE = "all, N, geometric:INITIAL:FACTOR, variance:INITIAL:THETA or geometric-variance:INITIAL:FACTOR:THETA."

# name, type, default, help
_SETTINGS: list[tuple[str, Any, Any, str]] = [
    ("--model", _choice("mlp", "autoencoder", "cnn"), "mlp", ""),
    (
        "--sizes",
        sizes,
        (),
        "Units of the layers, channels of a cnn.  [default: 128,64; 128,64,16; 16,32]",
    ),
    ("--activation", _choice("sigmoid", "tanh", "relu", "gelu", "softplus"), "tanh", ""),
    ("--init", _choice("default", "xavier", "sparse"), "default", "sparse: of Martens (2010)."),
    ("--loss", _choice("auto", "cross-entropy", "bce", "mse"), "auto", ""),
    ("--dtype", _choice("float32", "float64"), "float32", ""),
    ("--data", _choice("digits", "mnist", "csv"), "digits", "digits come with scikit-learn."),
    (
        "--path",
        click.Path(),
        None,
        "Folder of MNIST's idx files; a .csv or .csv.gz file, or the folder of train.csv.",
    ),
    ("--target", str, None, "csv: the column to predict, by name or number.  [default: the last]"),
    ("--task", _choice("auto", "classification", "regression"), "auto", "csv: what the target is."),
    ("--train-size", _COUNT, None, "Train on so many samples only."),
    ("--held-out", _SHARE, 0.1, "Share of the samples that the best parameters are chosen by."),
    (
        "--test",
        _SHARE,
        0.1,
        "Share for the test at the end, where the data have no test set of their own.",
    ),
    (
        "--optimizer",
        _choice("hf", "newton_cg", "adam", "sgd", "lbfgs", "neumann"),
        "hf",
        "hf: Hessian-free; lbfgs: torch's; neumann: Krishnan et al. (2018).",
    ),
    (
        "--lr",
        _POSITIVE,
        None,
        "Learning rate.  [default: adam 0.001, sgd and neumann 0.1, others 1]",
    ),
    ("--momentum", _NOT_NEGATIVE, 0.9, "Of sgd."),
    ("--weight-decay", _NOT_NEGATIVE, 0.0, ""),
    ("--warmup", click.IntRange(min=0), 5, "neumann: epochs of plain SGD at the beginning."),
    ("--reset", _COUNT, 10, "neumann: epochs until the first reset."),
    (
        "--curvature",
        _choice("ggn", "hessian", "hybrid"),
        "ggn",
        "hf, newton_cg: Gauss-Newton, Hessian, or (hf) both by turns.",
    ),
    (
        "--solver",
        _choice("flexible_cg", "cg", "bicgstab", "subspace", "dense"),
        "flexible_cg",
        "hf, newton_cg: the linear solver; dense: hf's exact steps for small networks.",
    ),
    (
        "--precond",
        _choice("none", "lbfgs", "ritz", "nystrom", "jacobi", "kronecker"),
        "none",
        "hf, newton_cg: preconditioner.",
    ),
    ("--precond-size", _COUNT, None, "Pairs or vectors that it keeps."),
    (
        "--damping",
        _NOT_NEGATIVE,
        None,
        "hf, newton_cg: lambda of the first step.  [default: 1; dense: 0.001]",
    ),
    ("--damping-rule", _choice("fixed", "adapted"), "fixed", "newton_cg; hf always adapts it."),
    (
        "--line-search",
        _choice("none", "armijo", "grid"),
        "none",
        "hf, newton_cg; none for hf: Armijo's, for dense grid, the best of the lengths 1, 1/2, 1/4 ...",
    ),
    (
        "--tol",
        click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        0.1,
        "newton_cg: residual at which a solve ends, relative to the gradient.",
    ),
    (
        "--inner",
        _COUNT,
        None,
        "Iterations of each solve (newton_cg: at most) or step (lbfgs).  [default: 10]",
    ),
    (
        "--batch",
        _COUNT,
        None,
        "Samples of a mini-batch (newton_cg, adam, sgd, neumann) or micro-batch.  [default: 128; 512]",
    ),
    ("--gradient-samples", str, "all", _SCHEDULE),
    ("--curvature-samples", str, "all", "hf: the same; all: those of the gradient."),
    ("--sampling", _choice("nested", "fresh"), "nested", "How gradient samples are drawn."),
    (
        "--evaluation",
        _choice("gradient", "held_out"),
        "gradient",
        "hf: the samples that judge a step.",
    ),
    ("--seed", click.IntRange(min=0), 0, "Of split, initialisation and samples."),
    (
        "--steps",
        click.IntRange(min=0),
        50,
        "Outer iterations; epochs for newton_cg, adam, sgd and neumann.",
    ),
    ("--time-limit", _POSITIVE, None, "Seconds after which no further iteration is begun."),
    ("--target-loss", float, None, "Training loss at which to stop."),
    ("--target-held-out", float, None, "Held-out loss at which to stop."),
    (
        "--spectrum",
        _COUNT,
        None,
        "Measure the extreme eigenvalues of a mini-batch's Hessian after every so many iterations.",
    ),
]


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of them."""
    command = click.option("--tensorboard", is_flag=True, help="Write TensorBoard's log too.")(
        command
    )
    for name, kind, default, words in reversed(_SETTINGS):
        shown = default not in (None, ())
        option = click.option(name, type=kind, default=default, show_default=shown, help=words)
        command = option(command)
    drop = click.option(
        "--drop", multiple=True, metavar="COLUMN", help="csv: leave a column out; may be repeated."
    )
    return drop(command)
