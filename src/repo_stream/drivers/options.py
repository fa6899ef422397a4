"""How repos are to be read: what a driver knows of the builder that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from repo_stream.limits import Limits
from repo_stream.mst.ranges import KeyRanges
from repo_stream.process import Processor

__all__ = ["OnError", "Options"]

T = TypeVar("T")

#: What to do about a record that cannot be read.
OnError = Literal["raise", "skip", "yield"]


@dataclass(frozen=True)
class Options(Generic[T]):
    """How repos are to be read. `DriverBuilder` documents each attribute.

    Attributes:
        mem_limit_mb: how much memory a repo may take before it goes to disk, in MiB.
        block_processor: what to make of each record.
        verify_cids: whether every block is checked against its CID.
        limits: limits on the input.
        key_ranges: which keys are walked.
        on_error: what to do about a record that cannot be read.
        gaps: whether the walk goes past missing blocks and damage; with `"all"`, also past nodes
            that break a rule.
    """

    mem_limit_mb: float
    block_processor: Processor[T]
    verify_cids: bool
    limits: Limits
    key_ranges: KeyRanges
    on_error: OnError
    gaps: bool | Literal["all"]

    @property
    def past_damage(self) -> bool | Literal["blocks"]:
        """Whether what is damaged in the CAR is left out; see `CarDecoder`."""
        if self.gaps:
            return True
        return False if self.on_error == "raise" else "blocks"

    @property
    def processes_late(self) -> bool:
        """Whether a record is processed when the walk reaches it, and not when its block comes.

        That is better if results are large (a lazy processor), or if few records are walked.
        """
        if self.block_processor.keeps_bytes:
            return False
        return self.block_processor.lazy or not self.key_ranges.everything
