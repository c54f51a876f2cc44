"""Do the same to several names: an error of one is reported, and the others continue."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from pvtool.output import Output
from pvtool_core.errors import PvError, SomeFailed


class Attempts:
    """Attempts on `names`, whose errors are printed; the error of a single name is raised."""

    def __init__(self, names: Sequence[str], output: Output) -> None:
        self.names = list(dict.fromkeys(names))
        self._output = output
        self._errors: list[PvError] = []

    @contextmanager
    def on(self, name: str) -> Generator[None]:
        """Keep and print an error of this name."""
        try:
            yield
        except PvError as error:
            if len(self.names) == 1:
                raise
            self._output.say(f"{name}: {error.message} {error.hint}".rstrip())
            self._errors.append(error)

    def finish(self) -> None:
        """Raise SomeFailed if attempts failed, or the last error if all did."""
        failed, total = len(self._errors), len(self.names)
        if failed:
            raise self._errors[-1] if failed == total else SomeFailed(failed, total, _HINT)


_HINT = "The reasons are above; the others succeeded."
