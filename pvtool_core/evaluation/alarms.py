"""Alarms: signs that training raised its rewards at the expense of likeness, motion or prompts.

Each rule compares the interval of a difference from the base model with a limit, so that chance
alone raises no alarm. A viewer sees changes beyond the limits at once. They were checked on clean
runs of the tiny preset, and on runs without its penalties and with five times its learning rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """An alarm for a metric whose change is beyond a limit, with its whole interval.

    `limit` is negative for a fall; with `relative` it is a fraction of the base model's mean.
    """

    metric: str
    limit: float
    words: str
    relative: bool = False


RULES = (
    Rule(
        "gap",
        0.2,
        "likeness rose much more by the reward's recogniser than by the held-out one",
    ),
    Rule("faces_found", -0.1, "faces are found in fewer frames"),
    Rule("clip_t", -0.05, "the clips follow their prompts less", relative=True),
    Rule("dense_motion", -0.3, "the clips move less", relative=True),
    Rule("dynamic_flow", -0.3, "the clips move less by optical flow", relative=True),
    Rule("temporal_consistency", -0.05, "neighbouring frames differ more: flicker"),
)


def alarms(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each sign of reward hacking, by method.

    `methods` are those of the report.
    """
    found: list[str] = []
    for name, method in methods.items():
        changes = method.get("differences", {})
        found += [
            f"{name}: {rule.words} ({_numbers(changes, rule.metric)})."
            for rule in RULES
            if rule.metric in changes and _applies(rule, changes[rule.metric])
        ]
        if _reward_alone(changes):
            numbers = _numbers(changes, "likeness_reward")
            words = "likeness rose by the reward's recogniser only"
            found.append(f"{name}: {words} ({numbers}).")
    return found


def _applies(rule: Rule, change: Mapping[str, Any]) -> bool:
    """Return whether the whole interval of a change is beyond the limit."""
    if change["low"] is None:
        return False
    limit = rule.limit * abs(change["base"]) if rule.relative else rule.limit
    return change["high"] < limit if limit < 0 else change["low"] > limit


def _reward_alone(changes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether likeness rose by the reward's recogniser and not by the held-out one.

    The rise of their difference must be significant too.
    """
    names = ("likeness_reward", "gap", "likeness")
    rewarded, gap, held_out = (changes.get(name) for name in names)
    if not rewarded or not gap or not held_out or gap["low"] is None:
        return False
    return rewarded["low"] > 0 and gap["low"] > 0 and held_out["low"] <= 0


def _numbers(changes: Mapping[str, Any], metric: str) -> str:
    """Return `clip_t 84.611 → 10.589`, the means of the compared pairs."""
    before = changes[metric]["base"]
    return f"{metric} {before:.3f} → {before + changes[metric]['mean']:.3f}"
