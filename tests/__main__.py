"""Run all checks that must pass before a commit: `python -m tests`; stop at the first failure."""

import os
import subprocess
import sys

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("pyright",),
    ("mkdocs", "build", "--strict", "--quiet"),
    ("pytest", "--numprocesses=2", "--dist=worksteal", "--durations=10"),
)
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",  # otherwise each engine would compile all of torch again
    "NO_MKDOCS_2_WARNING": "1",
    "HF_HUB_OFFLINE": "1",  # downloads fail
    "OMP_NUM_THREADS": "1",  # small models are slower with several threads
}


def main() -> int:
    for command in CHECKS:
        print("$", *command, flush=True)
        if status := subprocess.run(
            command, env={**os.environ, **ENVIRONMENT}, check=False
        ).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
