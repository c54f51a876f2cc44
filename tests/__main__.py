"""Run all checks that must pass before a commit: `python -m tests`; stop at the first failure.

pyright needs a minute of one processor, so pytest does not wait for it.
"""

import os
import subprocess
import sys

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("mkdocs", "build", "--strict", "--quiet"),
)
TYPES = ("pyright",)
TESTS = ("pytest", "--numprocesses=2", "--dist=worksteal", "--durations=10")
ENVIRONMENT = {
    **os.environ,
    "PYTHONDONTWRITEBYTECODE": "",  # otherwise each engine would compile all of torch again
    "NO_MKDOCS_2_WARNING": "1",
    "HF_HUB_OFFLINE": "1",  # downloads fail
    "OMP_NUM_THREADS": "1",  # small models are slower with several threads
}


def main() -> int:
    for command in CHECKS:
        if status := run(command):
            return status
    with subprocess.Popen(TYPES, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as types:
        status = run(TESTS)
        found, _ = types.communicate()
    print("$", *TYPES, f"\n{found}", flush=True)
    return status or types.returncode


def run(command: tuple[str, ...]) -> int:
    print("$", *command, flush=True)
    return subprocess.run(command, env=ENVIRONMENT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
