"""Ray started by pv is reachable from this machine only, and leaves no files behind."""

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pvtool_core.rendering import ray_cluster

SCRIPT = """
import json, os, psutil, ray, shutil
os.umask(0o022)
from pvtool_core.rendering.ray_cluster import connect
session = connect("")
assert ray.get(ray.remote(lambda: 1).remote()) == 1
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
connections = [c for p in processes for c in p.net_connections("inet")]
found = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
mode = session.stat().st_mode & 0o777
print(json.dumps({"listening": found, "session": str(session), "mode": mode}), flush=True)
ray.shutdown()
shutil.rmtree(session)
"""


@pytest.mark.slow
def test_ray_listens_on_loopback_in_a_private_folder_and_writes_no_files_to_the_home(
    tmp_path: Path,
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["listening"]
    for address in found["listening"]:
        assert ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback, address
    assert found["mode"] == 0o700
    assert list(tmp_path.iterdir()) == []


def test_session_folders_of_killed_engines_only_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_short_folder", lambda: str(tmp_path))
    dead = next(number for number in range(2**22, 0, -1) if not psutil.pid_exists(number))
    for name in (f"pv-ray-{dead}-x", f"pv-ray-{os.getpid()}-y", "pv-ray-nobody-z"):
        (tmp_path / name / "ray").mkdir(parents=True)
    ray_cluster.sweep_sessions()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"pv-ray-{os.getpid()}-y",
        "pv-ray-nobody-z",
    }
