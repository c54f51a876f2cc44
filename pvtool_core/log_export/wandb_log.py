"""Log a run to Weights & Biases, by the `wandb` package."""

import hashlib
from importlib import import_module
from typing import Any, cast

from pvtool_core.errors import NotReady, Unreachable
from pvtool_core.log_export.points import Clip, Point
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.toml import Table, to_table
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of


class WandbLog:
    """A run of a project; exported again, it is continued."""

    def __init__(self, folder: RunFolder, project: str) -> None:
        """Start the run. Raises NotReady without the package, Unreachable if wandb refuses."""
        job = job_of(folder)
        try:
            self._wandb: Any = import_module("wandb")
        except ImportError as error:
            raise NotReady(["wandb"], "Run `pip install pvtool[wandb]`.") from error
        try:
            self._run: Any = self._wandb.init(
                project=project,
                name=folder.name,
                id=hashlib.sha256(f"{folder.name} {job.created}".encode()).hexdigest()[:16],
                resume="allow",
                config=public_settings(job),
            )
        except Exception as error:  # wandb has many kinds
            raise Unreachable(
                f"Cannot start a run of wandb: {error}.",
                "Log in with `wandb login`, or set WANDB_MODE=offline.",
            ) from error

    def add_point(self, point: Point) -> None:
        """Log a scalar."""
        self._run.log({point.name: point.value}, step=point.step)

    def add_clip(self, clip: Clip) -> None:
        """Upload the file of a clip."""
        video = self._wandb.Video(
            str(clip.path), caption=clip.prompt, format=clip.path.suffix.lstrip(".")
        )
        self._run.log({clip.name: video}, step=clip.step)

    def close(self) -> None:
        """Upload what is left."""
        self._run.finish()


def public_settings(job: TrainJob) -> Table:
    """Return the settings of a run without identity, prompts and absolute paths."""
    return _without_paths({name: to_table(value) for name, value in job.sections().items()})


def _without_paths(table: Table) -> Table:
    return {
        key: _without_paths(cast("Table", value)) if isinstance(value, dict) else value
        for key, value in table.items()
        if isinstance(value, dict) or not _has_path(value)
    }


def _has_path(value: Any) -> bool:
    """Return whether a value is an absolute path, or has one in it."""
    if isinstance(value, list | tuple):
        return any(map(_has_path, cast("list[Any]", value)))
    if isinstance(value, dict):
        return any(map(_has_path, cast("Table", value).values()))
    return isinstance(value, str) and value.startswith(("/", "~", "file:"))
