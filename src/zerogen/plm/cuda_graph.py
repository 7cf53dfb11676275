"""Replay a decoding step as a CUDA graph, which launches its hundreds of kernels at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UP = 3  # calls after which libraries have chosen their kernels and made their workspaces


class GraphedStep:
    """Calls a step that does the same operations on the same tensors each time; on a GPU it is recorded and replayed.

    Every call must be given the same step. A step that cannot be recorded is called as it is; `refused` then says why.
    The tensors that it reads must stay in place, and it must not read a value on the host. What it returns is
    overwritten by the next call. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.refused = ""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Sequence[Tensor] = ()
        self._left = _WARM_UP  # calls before it is recorded

    def __call__(self, step: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        if self._stream is None:
            return step()
        with torch.cuda.device(self.device):
            if self._left:
                self._left -= 1
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):  # as recording requires
                    outputs = step()
                torch.cuda.current_stream().wait_stream(self._stream)
                return outputs
            if self._graph is None and not self._record(step):
                self._stream = None
                return step()
            assert self._graph is not None
            self._graph.replay()
            return self._outputs

    def _record(self, step: Callable[[], Sequence[Tensor]]) -> bool:
        """Record a step without executing it, and return whether that was possible."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context restores the stream even where ending a failed recording raises.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._outputs = step()
        except RuntimeError as error:
            # Ending a failed recording raises an error of its own, which hides the first one.
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                cause = cause.__context__
            # Something in the model looks at a value, as a few kinds of rotary embeddings do.
            self.refused = str(error.__context__ or error).partition("\n")[0]
            return False
        self._graph = graph
        return True
