"""What computes: a device, alone or as one of several processes that torchrun started.

torchrun --nproc-per-node 2 -m training RECIPE.toml --data DIR
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Machine:
    """One process of those that train together; of `processes`, the first (`rank` 0) writes."""

    device: torch.device
    rank: int = 0
    processes: int = 1
    compiled: bool = False

    @property
    def writes(self) -> bool:
        return self.rank == 0

    @property
    def has_bf16(self) -> bool:
        return self.device.type != "cuda" or torch.cuda.is_bf16_supported()

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{_cores()} cores, threads: {torch.get_num_threads()}"
        compiled = ", compiled" if self.compiled else ""
        return f"{self.device.type} ({name}), processes: {self.processes}{compiled}, torch {torch.__version__}"

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, its gradients averaged over the processes."""
        if self.processes == 1:
            return network
        # 1x1 kernels have the same layout under two names, of which this only dislikes one.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        return DistributedDataParallel(network, [self.device.index] if self.device.type == "cuda" else None)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.processes > 1:
            distributed.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """The largest over all processes, for what all of them must do alike."""
        if self.processes == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)

    def gathered(self, values: dict[int, Any]) -> dict[int, Any]:
        """What all processes have, together."""
        if self.processes == 1:
            return values
        parts: list[dict[int, Any]] = [{}] * self.processes
        distributed.all_gather_object(parts, values)
        return {key: value for part in parts for key, value in part.items()}

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes what the first one has."""
        if self.processes > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


@contextmanager
def open_machine(device: str = "auto", *, compiled: bool = False, deterministic: bool = False) -> Iterator[Machine]:
    """Join the other processes, if torchrun started this one.

    Args:
        device: cpu, cuda, or auto for cuda where there is one.
        deterministic: only kernels that give the same bits each time; an error where there is none.

    Raises:
        ValueError: there is no such device.
    """
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: this PyTorch ({torch.__version__}) finds no CUDA device")
    chosen = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    if not distributed.is_torchelastic_launched():
        yield Machine(chosen, compiled=compiled)
        return
    if kind == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Machine(chosen, distributed.get_rank(), distributed.get_world_size(), compiled)
    finally:
        distributed.destroy_process_group()


def _cores() -> int:
    return len(os.sched_getaffinity(0))
