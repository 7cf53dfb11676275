"""Deprecated alias of `zerogen.plm.workers`, kept for one version."""

import warnings

from zerogen.plm.workers import GeneratorModule, Inbox, Workers

__all__ = ["GeneratorModule", "Inbox", "Workers"]

warnings.warn("zerogen.plm.module is now zerogen.plm.workers", FutureWarning, stacklevel=2)
