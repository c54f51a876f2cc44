"""Connect to a Ray cluster, or start a private one on this machine.

What Ray starts here is reachable from this machine only, and leaves no files behind.
"""

import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Generator
from contextlib import chdir, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from pvtool_core.errors import UsageError

_TRIES = 5
_SESSION = "pv-ray-"
_LONGEST_FOLDER = 20
_PASSED_ON = ("PV_HOME", "HF_HUB_OFFLINE", "TQDM_DISABLE")


@contextmanager
def ray_session(address: str) -> Generator[None]:
    """Use the cluster at `address`, or one on this machine if it is empty, and leave it at the end.

    Raises UsageError if no cluster is found.
    """
    session = connect(address)
    try:
        yield
    finally:
        ray.shutdown()
        if session:
            shutil.rmtree(session, ignore_errors=True)


def connect(address: str) -> Path | None:
    """Connect to a cluster, or start Ray here if `address` is empty; return its session folder.

    Raises UsageError if no cluster is found.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # Workers import modules from the current folder; `uv run` must not make Ray copy it.
        with chdir("/"), _without("RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
            if not address:
                return _start_here()
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            ray.init(address, runtime_env={"env_vars": environment}, log_to_driver=False)
    except (ConnectionError, RayError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"No Ray cluster found at {address}: {why}", "Check it with `ray status`."
        ) from error
    finally:
        # Ray's handler would end this process immediately, with incomplete clips.
        signal.signal(signal.SIGTERM, on_sigterm)
    return None


def _start_here() -> Path:
    """Start Ray for this process only: on the loopback interface, with a token.

    It has a private folder. Ray replaces 127.0.0.1 by a network address if it supports clusters,
    and opens its folder to all users; hence a folder in a private one.
    """
    sweep_sessions()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray stores a token in the user's home.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    session = Path(tempfile.mkdtemp(prefix=f"{_SESSION}{os.getpid()}-", dir=_short_folder()))
    try:
        with _without("ENABLE_RAY_CLUSTER"):
            ray.init(
                "local",
                log_to_driver=False,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(session / "ray"),
            )
    except BaseException:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)
        raise
    return session


@contextmanager
def _without(flag: str) -> Generator[None]:
    """Disable a flag of Ray, which reads its environment variable only once, at import."""
    before = getattr(ray_constants, flag)
    setattr(ray_constants, flag, False)
    try:
        yield
    finally:
        setattr(ray_constants, flag, before)


def _short_folder() -> str:
    """Return the folder for Ray's sockets, whose paths may have 107 bytes at most."""
    return found if len(found := tempfile.gettempdir()) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108


def sweep_sessions() -> None:
    """Delete the session folders of this user's engines that were killed."""
    for folder in Path(_short_folder()).glob(f"{_SESSION}*-*"):
        number = folder.name.removeprefix(_SESSION).partition("-")[0]
        with suppress(OSError):
            about = folder.lstat()
            ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
            if ours and number.isdecimal() and not psutil.pid_exists(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def slots() -> int:
    """Return the number of tasks that the cluster can run now; it may grow and shrink."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))


def remote(function: Callable[..., Any]) -> Any:
    """Return a function as Ray's: on one GPU if the cluster has any, otherwise on one CPU."""
    return _remote(function, on_gpu=ray.cluster_resources().get("GPU", 0) > 0)


@cache
def _remote(function: Callable[..., Any], on_gpu: bool) -> Any:
    needs: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    return ray.remote(max_retries=_TRIES, **needs)(function)
