"""What a saved state has of each parameter, checked before the Neumann optimizer goes on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from krylov.checks import finite_number, not_negative
from krylov.torch.optim.tensors import saved_tensor

__all__ = ["check_buffers"]

_ENTRIES = frozenset(("m", "u", "mu", "square"))


def check_buffers(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Raise unless the buffers in a state of torch have the shapes of these parameters, in order.

    Raises
    ------
    ValueError
        An entry does not fit, is missing or is not finite; it is named with the number of its parameter.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    # A state of more or fewer parameters torch refuses itself.
    shapes = {n: parameter.shape for n, parameter in zip(numbers, parameters, strict=False)}
    for number, saved in state["state"].items():
        whose = f"of parameter {number}"
        if number not in shapes:
            raise ValueError(f"the state has entries {whose}, which no group has")
        if not isinstance(saved, Mapping):
            raise ValueError(f"the entries {whose} must be a mapping, not {type(saved).__name__}")
        if unknown := saved.keys() - _ENTRIES:
            raise ValueError(f"the state has {', '.join(sorted(map(str, unknown)))} {whose}")
        if missing := {"m", "mu"} - saved.keys():
            raise ValueError(f"the state has no {', '.join(sorted(missing))} {whose}")
        for name in saved.keys() & {"m", "u"}:
            saved_tensor(saved[name], f"{name} {whose}", shapes[number])
        mu = finite_number(saved["mu"], f"mu {whose}")
        if not 0 <= mu < 1:
            raise ValueError(f"mu {whose} must be at least 0 and below 1, got {mu!r}")
        if "square" in saved:
            if "u" not in saved:
                raise ValueError(f"the state has no u {whose}, but its square")
            not_negative(saved["square"], f"square {whose}")
