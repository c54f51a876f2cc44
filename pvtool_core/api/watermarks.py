"""Choice of the invisible watermark of rendered clips."""

from pvtool_core.errors import UsageError
from pvtool_core.settings.jobs import UNMARKED, WATERMARKS

AUTO = "auto"
WATERMARK_CHOICES = (AUTO, *WATERMARKS, UNMARKED)


def watermark_of(choice: str) -> str:
    """Return the method of a choice; `auto` is the best available one. Raises UsageError."""
    if choice not in WATERMARK_CHOICES:
        raise UsageError(
            f"Unknown watermark {choice!r}.", f"Use one of {', '.join(WATERMARK_CHOICES)}."
        )
    return WATERMARKS[0] if choice == AUTO else choice
