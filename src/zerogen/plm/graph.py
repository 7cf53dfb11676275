"""Replaying a step on a GPU: its hundreds of kernels are launched at once, not one by one from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UP = 3  # calls after which libraries have chosen their kernels and made their workspaces


class Replayed:
    """Calls a step that makes the same operations on the same tensors each time; on a GPU it is recorded and replayed.

    It is always called with the same step. What the step reads must stay where it is, and it must not ask for a value
    on the host. What it returns is overwritten by the next call. See
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Sequence[Tensor] = ()
        self._calls = 0

    def __call__(self, step: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        if self.device.type != "cuda":
            return step()
        self._calls += 1
        if self._calls <= _WARM_UP:  # as recording wants it: on a stream of its own
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                outputs = step()
            torch.cuda.current_stream(self.device).wait_stream(stream)
            return outputs
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._outputs = step()
            self._graph = graph
        self._graph.replay()
        return self._outputs
