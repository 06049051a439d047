"""The most memory that this process has held at once since a moment: on CUDA the allocator's account, else Linux's."""

from __future__ import annotations

from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NoAccountError(ValueError):
    """A system that does not say how much memory a process has held."""


class Peak:
    """Counts from its making on. Raises NoAccountError where the system keeps no account."""

    def __init__(self, device: str, status: Path = STATUS, reset: Path = RESET) -> None:
        self.device, self.status = device, status
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        try:
            reset.write_text("5")  # the peak is put back to what is held now
        except OSError as error:
            what = "peak memory of a CPU is Linux's account, which cannot be reset here"
            raise NoAccountError(f"{what}: {error}") from None
        self.before = self._kilobytes("VmRSS")

    def bytes(self) -> int:
        """The peak above what was held before, in bytes."""
        if self.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self.device) - self.before
        return 1024 * (self._kilobytes("VmHWM") - self.before)

    def _kilobytes(self, name: str) -> int:
        lines = dict(line.split(":", 1) for line in self.status.read_text().splitlines() if ":" in line)
        if name not in lines:
            raise NoAccountError(f"peak memory of a CPU is Linux's account, and {self.status} has no {name}")
        return int(lines[name].split()[0])
