"""Generate simulated prompts: ask a language model in batches until enough of them are valid."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pvtool_core.errors import BadPrompt
from pvtool_core.simulated_prompts.chat_api import Endpoint, Messages, ask
from pvtool_core.simulated_prompts.prompt_checks import Accepted, read_candidates
from pvtool_core.store.prompts import KEYWORD, NOUN

_BATCH = 10  # prompts per request
_USELESS = 3  # consecutive replies without a valid prompt, after which generation fails
_SHOWN_PROMPTS = 60  # newest prompts that a request lists, to avoid duplicates
_TASK = f"""You write prompts for a text-to-video model that shows one particular person.

Rules for each prompt:
- It describes a clip of a few seconds with exactly one main person, written as {KEYWORD} {NOUN}.
- It names a visible motion, the person's clothes or other appearance, and a background.
- It has 8 to 30 words, in English, in one line, without weights and brackets.
- It does not describe face, hair, age or skin, and has no name of a person and no pronoun.
- Motions, appearances and backgrounds vary as much as possible.

Answer with JSON only, without comments:
{{"prompts": [{{"prompt": "{KEYWORD} {NOUN} playing the violin in a subway station, long grey \
coat, commuters passing behind", "motion": "playing the violin", "appearance": "long grey coat", \
"background": "subway station"}}]}}

The texts of motion, appearance and background are copied from the prompt."""


@dataclass(frozen=True)
class Generation:
    """Valid prompts, the number of requests, and the number of rejected prompts by reason."""

    prompts: tuple[str, ...]
    requests: int
    rejected: Mapping[str, int]

    @property
    def rejections(self) -> str:
        """The rejected prompts in words, such as `3 rejected: duplicate 2, no motion 1`."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.items())
        return f"{sum(self.rejected.values())} rejected{f': {reasons}' if reasons else ''}"


def generate_prompts(
    endpoint: Endpoint,
    count: int,
    *,
    noun: str = "person",
    wishes: str = "",
    others: Iterable[str] = (),
    report: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    wait: Callable[[float], None] = time.sleep,
) -> Generation:
    """Return `count` valid prompts.

    Args:
        endpoint: The language model.
        count: Number of prompts.
        noun: Class noun of the identities that the prompts are for.
        wishes: Further instructions for the language model.
        others: Prompts of other banks, which are not repeated.
        report: Receives the number of valid prompts after each reply.
        say: Receives messages about repeated requests.
        wait: Waits for some seconds before a repeated request.

    Raises:
        BadPrompt: Too few prompts are valid.
        Unreachable, Busy, InputRefused: As `ask` does.
    """
    accepted, rejected = Accepted(others), Counter[str]()
    requests = useless = 0
    most = 5 + 3 * -(-count // _BATCH)
    while (missing := count - len(accepted.prompts)) > 0:
        if useless == _USELESS or requests == most:
            so_far = Generation(tuple(accepted.prompts), requests, rejected)
            raise BadPrompt(
                f"{endpoint.model} wrote only {len(so_far.prompts)} of {count} valid prompts in "
                f"{requests} requests ({so_far.rejections}).",
                "Nothing was saved. Use another --model or a smaller --count.",
            )
        messages = _messages(min(missing, _BATCH), noun, wishes, accepted.prompts)
        reply = ask(endpoint, messages, say, wait)
        requests += 1
        before = len(accepted.prompts)
        candidates = read_candidates(reply.text)
        for candidate in candidates:
            if len(accepted.prompts) < count and (reason := accepted.add(candidate)):
                rejected[reason] += 1
        if reply.is_cut or not candidates:
            problem = "reached its token limit" if reply.is_cut else "has no prompts as JSON"
            say(f"A reply of {endpoint.model} {problem}.")
        useless = useless + 1 if len(accepted.prompts) == before else 0
        report(len(accepted.prompts))
    return Generation(tuple(accepted.prompts), requests, rejected)


def _messages(count: int, noun: str, wishes: str, known: list[str]) -> Messages:
    parts = [f"Write {count} prompts."]
    parts += [f"The person is a {noun}."] if noun != "person" else []
    parts += [wishes] if wishes else []
    if known:
        parts += ["Do not repeat or vary these prompts:", *known[-_SHOWN_PROMPTS:]]
    return [
        {"role": "system", "content": _TASK},
        {"role": "user", "content": "\n".join(parts)},
    ]
