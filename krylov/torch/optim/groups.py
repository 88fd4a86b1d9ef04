"""Parameter groups: their numbers and their tensors, checked as they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from krylov.checks import not_negative
from krylov.torch.optim.tensors import entry

__all__ = ["check_group", "check_saved_groups"]


def check_group(group: Mapping[str, Any], number: int, names: Iterable[str]) -> None:
    """Raise where a group is empty, or one of these options is no finite number from zero on."""
    for name in names:
        not_negative(group[name], name)
    if not group["params"]:
        raise ValueError(f"parameter group {number} is empty: give it parameters or leave it out")


def check_saved_groups(state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise where the groups of a state of torch are damaged, or have such an option.

    How many groups and tensors there are torch compares itself.
    """
    entry(state, "state", Mapping)
    names = tuple(names)
    for number, group in enumerate(entry(state, "param_groups", list)):
        if not isinstance(group, Mapping):
            raise ValueError(f"parameter group {number} of the state is no mapping, but {group!r}")
        entry(group, "params", list)
        for name in names:
            not_negative(entry(group, name, object), f"{name} of parameter group {number}")
