"""All that must hold before a commit goes out: `python -m tests` runs it, and stops at the first that fails."""

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
    "PYTHONDONTWRITEBYTECODE": "",  # each of the many engines would translate all of torch anew
    "NO_MKDOCS_2_WARNING": "1",
    "HF_HUB_OFFLINE": "1",  # a test that would download something fails instead
    "OMP_NUM_THREADS": "1",  # the models are small: a second thread only waits for the first
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
