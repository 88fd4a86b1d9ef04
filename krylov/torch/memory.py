"""How much memory a kept graph holds, and how much there is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["available_bytes", "held_bytes"]


def held_bytes(roots: Iterable[Tensor]) -> int:
    """Bytes that the graphs of these tensors keep alive, the parameters themselves among them."""
    storages: dict[int, int] = {}
    waiting: list[Any] = [root.grad_fn for root in roots]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        waiting.extend(parent for parent, _ in node.next_functions)
    return sum(storages.values())


def _saved(node: Any) -> Iterable[Tensor]:
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                value = getattr(node, name)
            except RuntimeError:  # overwritten in the meantime: the product itself will say so
                continue
            for entry in value if isinstance(value, list | tuple) else [value]:
                if isinstance(entry, Tensor):
                    yield entry


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on a device; on the CPU the smaller of the machine's and the control group's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [1 << 62]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            statistics = dict(
                line.split() for line in (group / "memory.stat").read_text().splitlines()
            )
            used = int((group / "memory.current").read_text())
            found.append(int(limit) - used + int(statistics["inactive_file"]))  # which gives way
    except (OSError, ValueError, KeyError):
        pass
    return max(0, min(found))
