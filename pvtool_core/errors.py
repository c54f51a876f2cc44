"""The tree of errors: each has an exit status, a message and a hint.

PvError                      1
├── Reported                 *  an error that another process reported
├── BatchRefused             *  invalid rows of a batch, reported together; the status of the first
├── RunFailed                1  an unexpected failure in the engine
├── BrokenRun                1  a corrupt file in a run folder
│   └── UnsafeRun            3    (a symbolic link, a pipe or a device in it)
├── BrokenIdentity           1  a corrupt file of an identity
├── UsageError               2  invalid arguments or settings
│   └── SettingsError        2    (reports every mistake)
├── InputRefused             3  invalid input
│   ├── BadName              3
│   ├── NameTaken            3
│   ├── BadPrompt            3
│   ├── BadPicture           3    (unreadable or too large)
│   ├── FaceRefused          3    (no face, several, too small, blurred, or no match)
│   ├── BadArchive           3
│   ├── ConsentRefused       3    (revoked or expired)
│   └── BrokenWeights        3    (truncated, mislabelled, wrong hash, or a pickle with code)
├── Missing                  4  an identity, run or preset that does not exist
├── WeightsMissing           4
├── Unreachable              4  download failed: no network, or access denied
├── NotReady                 4  a missing dependency of pv
├── OutOfResources           5
│   ├── OutOfMemory          5
│   └── DiskFull             5
├── SomeFailed               6  some items of a batch failed
├── Busy                    75  another engine uses it
├── NoAnswer                75  a live engine did not respond in time
└── Interrupted            130  (143 for SIGTERM) stopped; the state is saved
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal


def printable(path: Path | str, whole: bool = False) -> str:
    """Return a file's name, or its `whole` path, with special characters escaped.

    Escaped are control characters and invalid UTF-8.
    """
    text = str(path) if whole else Path(path).name or str(path)  # the name of "." and "/" is empty
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    """Escape one character.

    Bytes that are not UTF-8 are surrogates from U+DC80; U+200D joins emoji.
    """
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() or letter == "\u200d" else repr(letter)[1:-1]


def is_utf8(text: str) -> bool:
    """Return whether text from the command line or the file system is valid UTF-8."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


class ExitStatus(IntEnum):
    """Exit statuses of commands; part of the contract with scripts."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    MISSING = 4
    RESOURCES = 5
    PARTIAL = 6
    BUSY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class PvError(Exception):
    """An error for the user: `message` describes the problem, `hint` the solution."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """Name of the error for programs, such as `FaceRefused`."""
        return type(self).__name__


class Reported(PvError):
    """An error of another process, with its status, name, message and hint."""

    def __init__(self, status: int, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = ExitStatus(status)
        self._kind = kind

    @property
    def kind(self) -> str:
        return self._kind


class BatchRefused(PvError):
    """Invalid rows of a batch: `mistakes` are the first of `count`, each with its line."""

    def __init__(self, mistakes: Sequence[tuple[str, PvError]], count: int) -> None:
        lines = [
            f"{source}: {error.message}" if source else error.message for source, error in mistakes
        ]
        more = [f"… and {count - len(lines)} more."] if count > len(lines) else []
        heading = [] if count == 1 else [f"{count} invalid rows:"]
        self.lines = (*heading, *lines, *more)
        super().__init__("\n".join(self.lines), mistakes[0][1].hint)
        self.status = mistakes[0][1].status
        self.mistakes = tuple(mistakes)


class RunFailed(PvError):
    """An unexpected failure in the engine."""


class NotFinite(RunFailed):
    """Latents, frames or scores with NaN or infinity; `what` describes them."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(
            f"The {what} are not finite: they contain NaN or infinity.",
            hint
            or "Check the adapter, the style LoRAs and the base model. "
            "Use bfloat16 or float32 instead of float16.",
        )


class BrokenRun(PvError):
    """A corrupt file in a run folder."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path.name} of {path.parent.name} is unreadable: {problem}.",
            "Restore it from a copy.",
        )


class UnsafeRun(BrokenRun):
    """A symbolic link, pipe or device in a run folder, which may lead out of it."""

    status = ExitStatus.REFUSED

    def __init__(self, path: Path, problem: str) -> None:
        PvError.__init__(
            self,
            f"{path} {problem}.",
            "A run folder may contain regular files and folders only. Replace it by a copy.",
        )


class BrokenIdentity(PvError):
    """A corrupt file of an identity."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path.name} of {path.parent.name} {problem}.",
            "Restore it from a copy, or add the identity again.",
        )


class UsageError(PvError):
    """An invalid command line or setting."""

    status = ExitStatus.USAGE


_SHOWN_KEY = 100
_SHOWN_MISTAKES = 20


@dataclass(frozen=True)
class Mistake:
    """One invalid setting: the dotted key and the problem."""

    key: str
    problem: str

    def __str__(self) -> str:
        key = self.key if self.key.isprintable() else repr(self.key)
        return f"{key if len(key) <= _SHOWN_KEY else f'{key[:_SHOWN_KEY]}…'}: {self.problem}"


class SettingsError(UsageError):
    """Invalid settings, reported together; at most the first twenty."""

    def __init__(
        self,
        mistakes: Sequence[Mistake],
        source: str = "the settings",
        hint: str = "Run `pv presets show NAME` to see every setting.",
    ) -> None:
        listed = "; ".join(str(mistake) for mistake in mistakes[:_SHOWN_MISTAKES])
        if more := len(mistakes[_SHOWN_MISTAKES:]):
            listed += f"; and {more} more"
        stop = "" if listed.endswith("?") else "."
        super().__init__(
            f"Cannot use {source}: {listed}{stop}",
            hint,
        )
        self.mistakes = tuple(mistakes)


class InputRefused(PvError):
    """Invalid input of the user."""

    status = ExitStatus.REFUSED


class Unmarked(InputRefused):
    """Files without a mark that says that AI generated them."""

    def __init__(self, unmarked: int, total: int) -> None:
        what = "The file has" if total == 1 else f"{unmarked} of {total} files have"
        super().__init__(
            f"{what} no mark of AI generation that pv can read.",
            "This does not show that a camera recorded it: marks can be removed.",
        )


class BadName(InputRefused):
    """A name that is not a valid folder name on every platform, or leads out of its folder."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"Invalid name {name!r} for {what}.",
            "Use 1 to 64 letters, digits, '-', '_' or '.' (200 bytes in UTF-8), "
            "starting with a letter or a digit.",
        )


class NameTaken(InputRefused):
    """A name that is already in use."""

    def __init__(self, what: str, name: str, hint: str = "") -> None:
        message = f"{what[0].upper()}{what[1:]} named {name!r} already exists."
        super().__init__(message, hint or "Choose another name.")


class BadPrompt(InputRefused):
    """An invalid prompt or prompt bank."""


class BadPicture(InputRefused):
    """A file that is not an image, or is too large to open safely."""

    def __init__(
        self, picture: Path | str, problem: str, hint: str = "Use a JPEG, PNG or WebP photo."
    ) -> None:
        super().__init__(f"{printable(picture)} {problem}.", hint)


FaceProblem = Literal["none", "several", "small", "blurred", "unlike"]

_FACE_SENTENCES: dict[FaceProblem, tuple[str, str]] = {
    "none": (
        "No face found in {picture}",
        "Use a photo that shows the face clearly.",
    ),
    "several": (
        "Several faces found in {picture}",
        "Select one with --face N, counted from the left, starting at 1.",
    ),
    "small": (
        "The face in {picture} is too small",
        "Use a photo with a larger face.",
    ),
    "blurred": ("The face in {picture} is blurred", "Use a sharper photo."),
    "unlike": (
        "The face in {picture} does not match the other photos",
        "Remove the photo, or select another face with --face.",
    ),
}


class FaceRefused(InputRefused):
    """A readable photo without a usable face; `problem` names the reason."""

    def __init__(self, picture: Path | str, problem: FaceProblem, detail: str = "") -> None:
        sentence, hint = _FACE_SENTENCES[problem]
        message = sentence.format(picture=printable(picture))
        super().__init__(f"{message}{f' ({detail})' if detail else ''}.", hint)
        self.problem: FaceProblem = problem


class BadArchive(InputRefused):
    """An archive that pv did not export, or that was damaged or modified."""

    def __init__(self, archive: Path, problem: str) -> None:
        super().__init__(
            f"{printable(archive)} {problem}.", "Use a file written by `pv identity export`."
        )


class ConsentRefused(InputRefused):
    """Training or rendering of an identity whose consent was revoked or has expired.

    The name is empty for an identity that was removed. `reason` is a phrase after the word consent.
    """

    def __init__(self, name: str, reason: str) -> None:
        who = f"of {name} " if name else "of a removed identity "
        super().__init__(
            f"The consent {who}{reason}: it cannot be trained or rendered.",
            "Ask the person. If they agree again, record their statement with "
            f"`pv identity consent {name} --consent TEXT`."
            if name
            else "Delete its adapters and clips.",
        )


class BrokenWeights(InputRefused):
    """Invalid model files: truncated, mislabelled, with a wrong hash, or with code in them."""

    def __init__(self, problems: Sequence[str], hint: str) -> None:
        super().__init__(f"{'; '.join(problems)}.", hint)


class Missing(PvError):
    """An identity, run, preset or folder that does not exist."""

    status = ExitStatus.MISSING

    def __init__(self, what: str, name: str, hint: str, near: str | None = None) -> None:
        suggestion = f" Did you mean {near!r}?" if near else ""
        super().__init__(f"No {what} named {name!r}.{suggestion}", hint)


class WeightsMissing(PvError):
    """Model weights of a job that are not on this machine."""

    status = ExitStatus.MISSING

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"Weights not found: {name}.", hint)


class Unreachable(PvError):
    """A download that failed: no network, or access denied."""

    status = ExitStatus.MISSING


class NotReady(PvError):
    """A missing dependency of pv."""

    status = ExitStatus.MISSING

    def __init__(self, lacking: Sequence[str], hint: str = "Reinstall pv.") -> None:
        super().__init__(f"Missing on this machine: {', '.join(lacking)}.", hint)


class OutOfResources(PvError):
    """Too little memory or disk space."""

    status = ExitStatus.RESOURCES


class OutOfMemory(OutOfResources):
    """Out of GPU or CPU memory."""

    def __init__(self) -> None:
        super().__init__(
            "Out of memory.",
            "Use fewer frames, a smaller size, or --set training.gradient=replay, "
            "which needs the memory of one step.",
        )


class DiskFull(OutOfResources):
    """No disk space or quota left; the last checkpoint is complete."""

    def __init__(
        self,
        path: str | None = None,
        hint: str = "Free disk space, and run the command again or `pv runs resume RUN`.",
    ) -> None:
        super().__init__(f"The disk is full{f' while writing {path}' if path else ''}.", hint)


class SomeFailed(PvError):
    """A batch in which some items failed."""

    status = ExitStatus.PARTIAL

    def __init__(self, failed: int, total: int, hint: str = "") -> None:
        usual = "The other clips are complete. Run the same command again to retry the failed ones."
        super().__init__(f"{failed} of {total} failed.", hint or usual)


class Busy(PvError):
    """Another live engine uses the folder; `who` describes a process that is not an engine."""

    status = ExitStatus.BUSY

    def __init__(
        self,
        name: str,
        who: str = "Another engine is working on",
        hint: str = "Wait for it, or stop it with `pv runs stop`.",
    ) -> None:
        super().__init__(f"{who} {name!r}.", hint)


class NoAnswer(PvError):
    """A live engine that did not respond in time."""

    status = ExitStatus.BUSY

    def __init__(self, name: str, state: str, seconds: float) -> None:
        super().__init__(
            f"{name} is still {state} {seconds:.0f} seconds after the request.",
            "The request is kept until the current step ends. "
            f"Check progress with `pv runs logs {name}`.",
        )


class Interrupted(PvError):
    """Stopped by a signal (SIGINT, or SIGTERM with `terminated`); the state is saved."""

    status = ExitStatus.INTERRUPTED

    def __init__(self, message: str, hint: str = "", terminated: bool = False) -> None:
        super().__init__(message, hint)
        if terminated:
            self.status = ExitStatus.TERMINATED


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"


def from_foreign(error: BaseException) -> PvError:
    """Convert any exception into a PvError; the only place that knows errors of other libraries.

    Out-of-memory errors of torch are recognised by their class name, so that torch is not imported.
    """
    if isinstance(error, PvError):
        return error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFull(error.filename)
    # safetensors and torch keep only the text of the error
    if any(os.strerror(number) in str(error) for number in NO_ROOM):
        return DiskFull()
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or _CPU_FULL in str(error)
    ):
        return OutOfMemory()
    if isinstance(error, PermissionError):
        return RunFailed(
            f"Permission denied: {error.filename}.",
            "Check its owner, or set PV_HOME to a folder that you can write.",
        )
    first_line = (str(error).splitlines() or [""])[0]
    return RunFailed(
        f"{type(error).__name__}: {first_line}".rstrip(": ")
        + ("" if first_line.endswith(".") else "."),
        "See the traceback with `pv runs logs RUN` or `--debug`.",
    )
