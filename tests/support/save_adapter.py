"""Save an adapter with fixed weights, as a process of its own: `python save_adapter.py FILE`."""

import sys
from pathlib import Path

from pvtool_core.imports import hide_unused_libraries

if __name__ == "__main__":
    hide_unused_libraries()  # as an engine does

from torch import nn

from pvtool_core.adapter import AdapterMetadata, IdentityAdapter
from pvtool_core.backbones.animatediff import KohyaLayout


def save(path: Path) -> None:
    """Write the adapter of twelve layers."""
    blocks = {f"block_{n}": nn.ModuleDict({"to_q": nn.Linear(4, 4)}) for n in range(12)}
    adapter = IdentityAdapter(nn.ModuleDict(blocks), r".*to_q", rank=2, seed=3)
    sampler = {"class": "DDIMScheduler", "beta_start": 0.1, "note": 'größer ≥ \\ "\x7f\n'}
    metadata = AdapterMetadata(0.75, 50, 7.5, sampler, "base", negative_prompt="ugly")
    adapter.save(path, KohyaLayout(), metadata)


if __name__ == "__main__":
    save(Path(sys.argv[1]))
