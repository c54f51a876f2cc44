"""Every way in which pv says no: a tree of errors, each with its exit status, one sentence and one hint.

PvError                      1
├── Reported                 *  any of these, told again by another process
├── BatchRefused             *  mistakes in lines of a batch, all told at once; the first one's status
├── RunFailed                1  the engine met something that it did not expect
├── BrokenRun                1  a file of a run's folder that pv cannot have written
│   └── UnsafeRun            3    (a link, a pipe or a device, which pv does not touch)
├── BrokenIdentity           1  a file of an identity that pv cannot have written
├── UsageError               2  wrong usage or settings
│   └── SettingsError        2    (holds every mistake, not only the first)
├── InputRefused             3  what was given cannot be used
│   ├── BadName              3
│   ├── NameTaken            3
│   ├── BadPrompt            3
│   ├── BadPicture           3    (unreadable, absurdly large)
│   ├── FaceRefused          3    (none, several, too small, blurred, unlike the others)
│   ├── BadArchive           3
│   └── BrokenWeights        3    (truncated, mislabelled, of another hash, or a pickle that holds code)
├── Missing                  4  an identity, a run, a preset of that name is not there
├── WeightsMissing           4
├── Unreachable              4  weights cannot be fetched: no network, or the hub says no
├── NotReady                 4  pv itself is not whole
├── OutOfResources           5
│   ├── OutOfMemory          5
│   └── DiskFull             5
├── SomeFailed               6  some items of a batch failed, the others are there
├── Busy                    75  another engine holds it
├── NoAnswer                75  an engine lives, but does not do what it was asked
└── Interrupted            130  (143 for SIGTERM) the state is saved
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal


def printable(path: Path | str, whole: bool = False) -> str:
    """A file's name, or its `whole` path, for a sentence; escapes stand for control characters and invalid UTF-8."""
    text = str(path) if whole else Path(path).name or str(path)  # "." and "/" have no name
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    """Python keeps bytes that are not UTF-8 as surrogates from U+DC80; U+200D joins emoji."""
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() or letter == "\u200d" else repr(letter)[1:-1]


def is_utf8(text: str) -> bool:
    """Whether a text from the command line or the file system can be written; bytes that are not UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


class ExitStatus(IntEnum):
    """What a command's exit status means; part of the contract with scripts."""

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
    """An error that a person reads: `message` says what is wrong, `hint` what to do about it."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The name by which programs know this error, such as `FaceRefused`."""
        return type(self).__name__


class Reported(PvError):
    """An error of another process, told again: its status, name and sentences are what was reported."""

    def __init__(self, status: int, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = ExitStatus(status)
        self._kind = kind

    @property
    def kind(self) -> str:
        return self._kind


class BatchRefused(PvError):
    """Lines of a batch that cannot be used: `mistakes` are the first of `count`, each with the line that it is in."""

    def __init__(self, mistakes: Sequence[tuple[str, PvError]], count: int) -> None:
        lines = [
            f"{source}: {error.message}" if source else error.message for source, error in mistakes
        ]
        more = [f"… and {count - len(lines)} more."] if count > len(lines) else []
        heading = [] if count == 1 else [f"There are {count} mistakes in what is to be rendered."]
        self.lines = (*heading, *lines, *more)
        super().__init__("\n".join(self.lines), mistakes[0][1].hint)
        self.status = mistakes[0][1].status
        self.mistakes = tuple(mistakes)


class RunFailed(PvError):
    """The engine met something that it did not expect."""


class NotFinite(RunFailed):
    """Latents, frames or scores that hold NaN or infinity; `what` names them."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(
            f"The {what} are not finite: they hold NaN or infinity.",
            hint
            or "Check the adapter, the style LoRAs and the base model; instead of float16 use bfloat16 or float32.",
        )


class BrokenRun(PvError):
    """A file of a run's folder that pv cannot have written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path.name} of {path.parent.name} is unreadable: {problem}.",
            "Restore it from a copy.",
        )


class UnsafeRun(BrokenRun):
    """Something in a run's folder that is no regular file or folder of its own, and may lead out of it."""

    status = ExitStatus.REFUSED

    def __init__(self, path: Path, problem: str) -> None:
        PvError.__init__(
            self,
            f"{path} {problem}.",
            "In a run's folder pv uses regular files and folders only. If it is yours, put a copy in its place.",
        )


class BrokenIdentity(PvError):
    """A file of an identity that pv cannot have written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path.name} of {path.parent.name} {problem}.",
            "Restore it from a copy, or add the person anew.",
        )


class UsageError(PvError):
    """The command line or a setting is wrong."""

    status = ExitStatus.USAGE


_SHOWN_KEY = 100
_SHOWN_MISTAKES = 20


@dataclass(frozen=True)
class Mistake:
    """One wrong setting: the dotted key, and what is wrong with it."""

    key: str
    problem: str

    def __str__(self) -> str:
        key = self.key if self.key.isprintable() else repr(self.key)
        return f"{key if len(key) <= _SHOWN_KEY else f'{key[:_SHOWN_KEY]}…'}: {self.problem}"


class SettingsError(UsageError):
    """One or more settings are wrong; all of them are named at once, or the first twenty where there are more."""

    def __init__(self, mistakes: Sequence[Mistake], source: str = "the settings") -> None:
        listed = "; ".join(str(mistake) for mistake in mistakes[:_SHOWN_MISTAKES])
        if more := len(mistakes[_SHOWN_MISTAKES:]):
            listed += f"; and {more} more"
        stop = "" if listed.endswith("?") else "."
        super().__init__(
            f"Cannot use {source}: {listed}{stop}",
            "Run `pv presets show NAME` to see every setting.",
        )
        self.mistakes = tuple(mistakes)


class InputRefused(PvError):
    """Something given by the user cannot be used."""

    status = ExitStatus.REFUSED


class BadName(InputRefused):
    """A name that could not be a folder of its own everywhere, or that reaches out of its place."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"{name!r} cannot be the name of {what}.",
            "Use 1 to 64 letters, digits, '-', '_' or '.' (200 bytes in UTF-8), beginning with a letter or a digit.",
        )


class NameTaken(InputRefused):
    """There is one of that name already."""

    def __init__(self, what: str, name: str, hint: str = "") -> None:
        super().__init__(f"There is {what} named {name!r} already.", hint or "Choose another name.")


class BadPrompt(InputRefused):
    """A prompt, or a bank of prompts, that cannot be used."""


class BadPicture(InputRefused):
    """A file that is no picture, or one too large to open safely."""

    def __init__(
        self, picture: Path | str, problem: str, hint: str = "Give a JPEG, PNG or WebP photo."
    ) -> None:
        super().__init__(f"{printable(picture)} {problem}.", hint)


FaceProblem = Literal["none", "several", "small", "blurred", "unlike"]

_FACE_SENTENCES: dict[FaceProblem, tuple[str, str]] = {
    "none": (
        "There is no face to be found in {picture}",
        "Give a photo in which the face is plainly seen.",
    ),
    "several": (
        "There are several faces in {picture}",
        "Say which one with --face N, counted from the left from 1.",
    ),
    "small": (
        "The face in {picture} is too small",
        "Give a photo that shows the face from nearer.",
    ),
    "blurred": ("The face in {picture} is blurred", "Give a sharper photo."),
    "unlike": (
        "The face in {picture} is not that of the other photos",
        "Leave it out, or name the right --face.",
    ),
}


class FaceRefused(InputRefused):
    """A readable picture whose face, or lack of one, makes it useless; `problem` says why."""

    def __init__(self, picture: Path | str, problem: FaceProblem, detail: str = "") -> None:
        sentence, hint = _FACE_SENTENCES[problem]
        message = sentence.format(picture=printable(picture))
        super().__init__(f"{message}{f' ({detail})' if detail else ''}.", hint)
        self.problem: FaceProblem = problem


class BadArchive(InputRefused):
    """A file that is no export of pv, or one that was damaged or tampered with."""

    def __init__(self, archive: Path, problem: str) -> None:
        super().__init__(
            f"{printable(archive)} {problem}.", "Give a file written by `pv identity export`."
        )


class BrokenWeights(InputRefused):
    """Model files that cannot be used: truncated, mislabelled, of another hash than published, or holding code."""

    def __init__(self, problems: Sequence[str], hint: str) -> None:
        super().__init__(f"{'; '.join(problems)}.", hint)


class Missing(PvError):
    """Something that was named is not there."""

    status = ExitStatus.MISSING

    def __init__(self, what: str, name: str, hint: str, near: str | None = None) -> None:
        suggestion = f" Did you mean {near!r}?" if near else ""
        super().__init__(f"There is no {what} named {name!r}.{suggestion}", hint)


class WeightsMissing(PvError):
    """Model weights that a job names are not on this machine."""

    status = ExitStatus.MISSING

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"The weights {name} are not on this machine.", hint)


class Unreachable(PvError):
    """Weights that cannot be fetched now, because of the network or because the other side refuses."""

    status = ExitStatus.MISSING


class NotReady(PvError):
    """This machine lacks what pv itself needs."""

    status = ExitStatus.MISSING

    def __init__(self, lacking: Sequence[str], hint: str = "Install pv anew.") -> None:
        super().__init__(f"This machine lacks: {', '.join(lacking)}.", hint)


class OutOfResources(PvError):
    """The machine has too little of something."""

    status = ExitStatus.RESOURCES


class OutOfMemory(OutOfResources):
    """The accelerator's or the machine's memory is full."""

    def __init__(self) -> None:
        super().__init__(
            "The memory is full.",
            "Use fewer frames, a smaller size, or --set training.gradient=replay, which needs the memory of one step.",
        )


class DiskFull(OutOfResources):
    """No space, or no quota, is left; the last checkpoint is whole."""

    def __init__(
        self,
        path: str | None = None,
        hint: str = "Make room; then `pv runs resume RUN` goes on from the last checkpoint.",
    ) -> None:
        super().__init__(f"The disk is full{f' while writing {path}' if path else ''}.", hint)


class SomeFailed(PvError):
    """A batch in which some items failed and the others are there."""

    status = ExitStatus.PARTIAL

    def __init__(self, failed: int, total: int) -> None:
        super().__init__(
            f"{failed} of {total} failed.",
            "The others are there; the same command tries only the missing ones.",
        )


class Busy(PvError):
    """Another live engine holds the folder; `who` is another process where it is no engine."""

    status = ExitStatus.BUSY

    def __init__(
        self,
        name: str,
        who: str = "Another engine is working on",
        hint: str = "Wait for it, or stop it with `pv runs stop`.",
    ) -> None:
        super().__init__(f"{who} {name!r}.", hint)


class NoAnswer(PvError):
    """A live engine that has not done in time what it was asked."""

    status = ExitStatus.BUSY

    def __init__(self, name: str, state: str, seconds: float) -> None:
        super().__init__(
            f"{name} is still {state}, {seconds:.0f} seconds after it was asked.",
            f"The request stays: wait for the end of its step. `pv runs logs {name}` shows whether it goes on.",
        )


class Interrupted(PvError):
    """Stopped by a signal (SIGINT, or SIGTERM with `terminated`); what was reached is saved."""

    status = ExitStatus.INTERRUPTED

    def __init__(self, message: str, hint: str = "", terminated: bool = False) -> None:
        super().__init__(message, hint)
        if terminated:
            self.status = ExitStatus.TERMINATED


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"


def from_foreign(error: BaseException) -> PvError:
    """Turn any exception into one of ours; the only place that knows other libraries' errors.

    Out-of-memory errors of torch are known by their class's name, so that torch is not imported here.
    """
    if isinstance(error, PvError):
        return error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFull(error.filename)
    if any(
        os.strerror(number) in str(error) for number in NO_ROOM
    ):  # safetensors and torch keep only the words
        return DiskFull()
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or _CPU_FULL in str(error)
    ):
        return OutOfMemory()
    if isinstance(error, PermissionError):
        return RunFailed(
            f"Not allowed to use {error.filename}.",
            "Look at who owns it, or set PV_HOME to a folder of yours.",
        )
    first_line = (str(error).splitlines() or [""])[0]
    return RunFailed(
        f"{type(error).__name__}: {first_line}".rstrip(": ")
        + ("" if first_line.endswith(".") else "."),
        "`pv runs logs RUN` or `--debug` shows where it happened.",
    )
