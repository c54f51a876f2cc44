"""What the engine's log leaves out: a line of bitsandbytes that is no problem of the run's, and nothing else."""

import logging
from pathlib import Path

import pytest

from pvtool_core import __main__ as engine


def test_the_line_about_an_optional_kernel_is_left_out_and_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.main([str(tmp_path)])  # a folder without settings: it fails, with its log prepared
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning(
            "Failed to load CPU gemm_4bit_forward from kernels-community: no module 'kernels'"
        )
        logger.warning("Something else.")
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == [
        "Something else."
    ]
