"""Filter runs by words; used by commands and dashboard."""

from collections.abc import Iterable

from pvtool_core.store.summary import RunSummary

_FIELDS = ("run", "identity", "preset", "state", "note")


def matches(run: RunSummary, words: Iterable[str]) -> bool:
    """Return whether each word is part of a run's name, identity, preset, state, note or tags.

    The sweeps that use the run count too. A word such as `state:failed` is compared with that one
    only.
    """
    known = {name: str(getattr(run, name)).casefold() for name in _FIELDS}
    known["tag"] = " ".join(run.tags).casefold()
    known["sweep"] = " ".join(run.sweeps).casefold()
    return all(_matches(known, word.casefold()) for word in words)


def _matches(known: dict[str, str], word: str) -> bool:
    name, _, part = word.partition(":")
    texts = [known[name]] if name in known and part else known.values()
    return any((part if name in known and part else word) in text for text in texts)
