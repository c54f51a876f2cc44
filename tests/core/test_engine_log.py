"""The engine's log omits one irrelevant line of bitsandbytes, and no other."""

import logging
from pathlib import Path

import pytest

from pvtool_core import __main__ as engine


def test_log_omits_the_line_about_an_optional_kernel_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.main([str(tmp_path)])  # a folder without settings: it fails after opening its log
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning(
            "Failed to load CPU gemm_4bit_forward from kernels-community: no module 'kernels'"
        )
        logger.warning("Something else.")
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == [
        "Something else."
    ]
