"""The training driver: one loop for every optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from krylov.torch.optim.hessian_free import HessianFree
from krylov.torch.optim.neumann_series import NeumannSeries
from krylov.torch.optim.newton_cg import NewtonCG
from krylov.torch.sampling import Sampler
from krylov.torch.schedules import FixedSize, Schedule
from krylov.torch.training.data import Data
from krylov.torch.training.history import History
from krylov.torch.training.iteration import (
    ClosureIteration,
    Iteration,
    MiniBatchIteration,
    Task,
)
from krylov.torch.training.measure import Loss, error_rate
from krylov.torch.training.newton import NewtonIteration
from krylov.torch.training.options import FitOptions
from krylov.torch.training.run import Problem, Run
from krylov.torch.training.samples import as_samples, check_finite, check_targets
from krylov.torch.training.second_order import SecondOrderIteration

__all__ = ["MICRO_BATCH", "MINI_BATCH", "fit", "prepare"]

#: Samples of a micro-batch (kept graphs are what memory is for), and of a mini-batch (a step each).
MICRO_BATCH, MINI_BATCH = 512, 128
# Optimizers of second order that take a step with each mini-batch.
_BY_MINI_BATCHES = (NewtonCG, NeumannSeries)


def fit(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    optimizer: Optimizer | None = None,
    held_out: Any = None,
    groups: Tensor | None = None,
    **options: Any,
) -> History:
    """Train a model.

    Any optimizer will do. `HessianFree` is given gradient, curvature and evaluation samples; ``torch.optim.LBFGS`` a
    closure over the whole sample; all others, `NewtonCG` and `NeumannSeries` among them, an epoch of mini-batches an
    iteration. Costs are counted alike for all.

    Parameters
    ----------
    model : nn.Module
        Where it lives, data are copied to. Its modules stay in the mode in which they are, training or evaluation.
    loss : callable
        ``loss(outputs, targets)``, the mean over the samples of a batch.
    data : pair of tensors, Dataset or Data
        Inputs and targets to train on, or what `load_data` returns, with its held-out samples. Of a map-style dataset
        each item, a pair, is read once: all of them must fit into memory, and transforms draw random numbers once.
    optimizer : Optimizer, optional
        Of the model's parameters; by default `HessianFree`.
    held_out : pair of tensors or Dataset, optional
        Samples that the best parameters are chosen by.
    groups : Tensor, optional
        The group of each training sample; samples then consist of whole groups. See `Sampler`.

    Other Parameters
    ----------------
    steps : int
        Outer iterations, 100 by default; those before a resumption count.
    batch : int
        Samples of a mini-batch (128 by default), or of a micro-batch where the optimizer sees the whole sample at once
        (512 by default). With a schedule by variance micro-batches are smaller where the sample needs it to have ten.
    gradient_schedule, curvature_schedule : Schedule
        Sizes of the samples; by default all data, and the gradient sample. The second one is for `HessianFree` only.
    gradient_samples, curvature_samples : {"nested", "fresh"}
        How they are drawn: ``"nested"`` and ``"fresh"`` by default. Mini-batches are always those of fresh ones.
    evaluation : {"gradient", "held_out"}
        The samples that `HessianFree` judges steps by.
    metric : callable
        ``metric(outputs, targets)``, a mean over the samples that is recorded beside the loss; by default the error
        rate where the loss is ``CrossEntropyLoss`` and targets are labels.
    seed : int
        Of the samples.
    keep : {"best", "last"}
        The parameters that the model has in the end: by default those of the smallest held-out loss (training loss
        where nothing is held out), after an interruption or an error too.
    log : path
        A file for the records, one line of JSON an iteration.
    tensorboard : path
        A folder for TensorBoard, which must be installed.
    checkpoint : path
        A file that is replaced every ``checkpoint_every`` iterations (1 by default) and in the end.
    resume : bool
        Go on from the checkpoint, if there is one, as if there had been no interruption, to the last bit. The log is
        cut back to it.
    time_limit : float
        Seconds that this call may take; the iteration in hand is completed.
    target_loss, target_held_out : float
        Training and held-out loss at which to stop.
    callback : callable
        ``callback(record)`` after each iteration; StopIteration ends the run.
    spectrum : SpectrumTracker
        Extreme eigenvalues of the curvature, of a mini-batch of the training samples, for the records. Their cost is in
        their own entry and not among that of training.
    scheduler : torch.optim.lr_scheduler.LRScheduler or callable
        Changes the learning rates after each outer iteration, as after an epoch; a scheduler of the optimizer, or
        ``scheduler(optimizer)``, which makes one. ``ReduceLROnPlateau`` is given the held-out loss (training loss where
        nothing is held out).
    progress : bool
        Show a bar if stderr is a terminal.

    Returns
    -------
    History
        The records, why training ended, and the best iteration.

    Raises
    ------
    ValueError, TypeError
        Something does not fit together; found before any work.
    NonFiniteLoss
        The loss of a batch is NaN or infinite.
    CheckpointError
        A checkpoint cannot be read; or at the end log or checkpoint could not be written, while training went on.

    Notes
    -----
    Ctrl-C and SIGTERM end training after the iteration in hand, with a checkpoint; a second one at once, with the
    checkpoint of the iteration before.

    An optimizer with ``eval()`` and ``train()``, as `Neumann`, is in training mode during iterations only, and in
    evaluation mode in the end.
    """
    return prepare(
        model, loss, data, optimizer=optimizer, held_out=held_out, groups=groups, **options
    ).go()


def prepare(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    optimizer: Optimizer | None = None,
    held_out: Any = None,
    groups: Tensor | None = None,
    **options: Any,
) -> Run:
    """All of `fit` up to the work: what does not fit together shows, nothing is written, and ``go()`` does the rest."""
    chosen = FitOptions.of(options)
    problem = _problem(model, loss, data, held_out, chosen)
    if groups is None and isinstance(data, Data):
        groups = data.groups
    if optimizer is None:
        optimizer = HessianFree(model.parameters())
    _check_optimizer(model, optimizer)
    iteration, batch = _iteration(problem, optimizer, groups, chosen)
    return Run(problem, optimizer, iteration, chosen, batch)


def _problem(
    model: nn.Module, loss: Loss, data: Any, held_out: Any, options: FitOptions
) -> Problem:
    if isinstance(data, Data):
        held_out = data.held_out if held_out is None else held_out
        data = data.train
    train = as_samples(data, "data")
    kept = None if held_out is None else as_samples(held_out, "held_out")
    if getattr(loss, "reduction", "mean") != "mean":
        raise ValueError(
            "the loss must be a mean over samples, since batches are weighted by their sizes: reduction='mean'"
        )
    for samples, name in ((train, "training"), (kept, "held-out")):
        if samples is not None:
            check_finite(samples, name)
            check_targets(model, loss, samples, name)
    for name, needs in (
        ("evaluation='held_out'", options.evaluation == "held_out"),
        ("target_held_out", options.target_held_out is not None),
    ):
        if needs and kept is None:
            raise ValueError(f"{name} needs held_out samples")
    metric = options.metric
    labels = not train.targets.is_floating_point() and train.targets.ndim == 1
    if metric is None and isinstance(loss, nn.CrossEntropyLoss) and labels:
        metric = error_rate
    device = next((parameter.device for parameter in model.parameters()), None)
    return Problem(Task(model, loss, train, device), kept, metric)


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    for group in optimizer.param_groups:
        if any(id(parameter) not in own for parameter in group["params"]):
            raise ValueError(
                "the optimizer has parameters that the model has not: make it from model.parameters(), after the "
                "model was moved to its device"
            )


def _iteration(
    problem: Problem, optimizer: Any, groups: Tensor | None, options: FitOptions
) -> tuple[Iteration, int]:
    task = problem.task
    count = len(task.samples)
    labels = None if groups is None else groups.cpu().numpy()

    def sampler(mode: str, seed: int) -> Sampler:
        return Sampler(count, mode=mode, seed=seed, groups=labels)

    gradient = options.gradient_schedule or FixedSize(count)
    curvature = options.curvature_schedule or FixedSize(count)
    if hasattr(optimizer, "step_batches") and not isinstance(optimizer, _BY_MINI_BATCHES):
        batch = options.batch or MICRO_BATCH
        # Two seeds: a fresh curvature sample is not to repeat the draws of the gradient sample.
        samplers = (
            sampler(options.gradient_samples, 2 * options.seed),
            sampler(options.curvature_samples, 2 * options.seed + 1),
        )
        evaluation = None
        if options.evaluation == "held_out":
            assert problem.held_out is not None
            evaluation = list(problem.held_out.in_order(batch, task.device))
        return SecondOrderIteration(
            task, optimizer, samplers, (gradient, curvature), batch, evaluation
        ), batch
    _refuse_second_order(options, gradient)
    if isinstance(optimizer, torch.optim.LBFGS):
        batch = options.batch or MICRO_BATCH
        mode = options.gradient_samples
        return ClosureIteration(
            task, optimizer, sampler(mode, options.seed), gradient, batch
        ), batch
    batch = options.batch or MINI_BATCH
    kind = NewtonIteration if isinstance(optimizer, _BY_MINI_BATCHES) else MiniBatchIteration
    return kind(task, optimizer, sampler("fresh", options.seed), gradient, batch), batch


def _refuse_second_order(options: FitOptions, gradient: Schedule) -> None:
    if options.curvature_schedule is not None or options.evaluation != "gradient":
        raise ValueError(
            "curvature_schedule and evaluation are for HessianFree: leave them out with this optimizer"
        )
    if gradient.needs_statistics:
        raise ValueError(
            "a schedule by variance needs HessianFree, which gathers the statistics: use GeometricSchedule"
        )
