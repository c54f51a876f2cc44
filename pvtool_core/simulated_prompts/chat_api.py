"""Ask a language model: the chat completions of OpenAI's API, which many servers provide."""

import email.utils
import http.client
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any, cast

from pvtool_core.errors import Busy, InputRefused, Unreachable, UsageError
from pvtool_core.web import (
    NETWORK_ERRORS,
    Answer,
    describe_network_error,
    host_of,
    is_unencrypted,
    is_web_address,
    post_json,
)

KEY_VARIABLE = "PV_LLM_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
_OPENAI_HOST = "api.openai.com"
_PATH = "/chat/completions"
_TRIES = 4
_PAUSE = 2.0  # seconds after the first failure, doubled after each
_LONGEST_WAIT = 120.0  # seconds for which a server may ask to wait
_SHOWN = 200
_CHECK_ENDPOINT = "Check --endpoint: the address of an OpenAI-compatible API, often ending in /v1."

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API and one of its models; `seconds` limits a request."""

    address: str
    model: str
    seconds: float = 120.0
    key: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        return host_of(self.address)

    @property
    def is_key_exposed(self) -> bool:
        """Whether the key is sent unencrypted to another machine."""
        return bool(self.key) and is_unencrypted(self.address)


@dataclass(frozen=True)
class Reply:
    """Text of a model; `is_cut` if it reached its token limit."""

    text: str
    is_cut: bool = False


def find_endpoint(address: str, model: str, seconds: float) -> Endpoint:
    """Return an endpoint with the key from the environment.

    PV_LLM_KEY is sent to any endpoint, OPENAI_API_KEY to OpenAI only. Raises UsageError for an
    invalid address or key.
    """
    if not is_web_address(address):
        raise UsageError(
            f"Invalid endpoint {address!r}.",
            "Use an http or https address such as https://api.openai.com/v1 or "
            "http://localhost:11434/v1.",
        )
    if urllib.parse.urlsplit(address).username is not None:
        raise UsageError(
            f"The address of {host_of(address)} contains a user name.",
            f"Remove it, and set {KEY_VARIABLE} to the key.",
        )
    base, mark, query = address.partition("?")
    base = base.rstrip("/").removesuffix(_PATH) + _PATH
    return Endpoint(f"{base}{mark}{query}", model, seconds, _key_for(address))


def _key_for(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    is_openai = parts.scheme == "https" and parts.hostname == _OPENAI_HOST
    names = (KEY_VARIABLE, OPENAI_KEY_VARIABLE) if is_openai else (KEY_VARIABLE,)
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise UsageError(f"{name} is not a valid key.", "Set it to the key, in one line.")
            return key
    return ""


def ask(
    endpoint: Endpoint,
    messages: Messages,
    say: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> Reply:
    """Return the reply of the model.

    After a rate limit, a server error or a cut answer the request is repeated, as `say` reports.
    Raises Unreachable, Busy if the rate limit persists, InputRefused if the request is invalid.
    """
    problem, pause = "", 0.0
    for attempt in range(_TRIES):
        if attempt:
            say(f"{endpoint.host}: {problem}; trying again in {pause:.0f} seconds.")
            wait(pause)
        pause = _PAUSE * 2**attempt
        try:
            answer = _send(endpoint, messages)
        except http.client.IncompleteRead:
            problem = "the answer ended too early"
            continue
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            _raise_for_quota(endpoint, answer)
            problem = "rate limit exceeded"
            pause = _requested_pause(endpoint, answer.headers, pause)
        elif answer.status == HTTPStatus.REQUEST_TIMEOUT or answer.status >= 500:
            problem = f"server error {answer.status}"
        elif answer.status != HTTPStatus.OK:
            _raise_refusal(endpoint, answer)
        elif (reply := _parse(endpoint, answer.content)) is None:
            problem = "the answer is truncated or invalid JSON"
        else:
            return reply
    if problem == "rate limit exceeded":
        raise _rate_limit(endpoint, pause)
    raise Unreachable(
        f"No valid answer of {endpoint.host} in {_TRIES} attempts: {problem}.",
        "Try again later, or check the log of the server.",
    )


def _send(endpoint: Endpoint, messages: Messages) -> Answer:
    """Send one request. Raises Unreachable or IncompleteRead."""
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    value = {"model": endpoint.model, "messages": list(messages)}
    try:
        return post_json(endpoint.address, value, endpoint.seconds, headers)
    except http.client.IncompleteRead:
        raise
    except TimeoutError as error:
        raise Unreachable(
            f"{endpoint.host} did not answer within {endpoint.seconds:g} seconds.",
            "Use a larger --timeout or a faster model.",
        ) from error
    except NETWORK_ERRORS as error:
        raise Unreachable(
            f"Cannot reach {endpoint.host}: {describe_network_error(error)}.",
            "Check --endpoint, and whether the server is running.",
        ) from error
    except ValueError as error:
        raise Unreachable(f"Cannot use {endpoint.host}: {error}.", _CHECK_ENDPOINT) from error


def _requested_pause(endpoint: Endpoint, headers: Message, default: float) -> float:
    """Return the seconds of Retry-After. Raises Busy if they are too many."""
    text = (headers.get("Retry-After") or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return default
    seconds = max(0.0, seconds)
    if not seconds <= _LONGEST_WAIT:
        raise _rate_limit(endpoint, seconds)
    return seconds


def _rate_limit(endpoint: Endpoint, seconds: float) -> Busy:
    after = f"in {seconds:.0f} seconds" if seconds < 1e6 else "later"
    return Busy(endpoint.host, "Rate limit exceeded at", f"Run the command again {after}.")


def _raise_for_quota(endpoint: Endpoint, answer: Answer) -> None:
    """Raise Unreachable if an account has no credit left: waiting does not help."""
    if b"insufficient_quota" in answer.content:
        raise Unreachable(
            f"The quota of your account at {endpoint.host} is exceeded (429).",
            "Check its plan and billing.",
        )


def _raise_refusal(endpoint: Endpoint, answer: Answer) -> None:
    """Raise the error of an answer that a repetition would not change."""
    host, status = endpoint.host, answer.status
    said = _message_in(endpoint, answer.content)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        problem = "rejected the API key" if endpoint.key else "requires an API key"
        hint = f"Set {KEY_VARIABLE} to your key, or {OPENAI_KEY_VARIABLE} for OpenAI."
        raise Unreachable(f"{host} {problem} ({status}).", hint)
    if 300 <= status < 400:
        target = host_of(answer.headers.get("Location") or "another address")
        raise Unreachable(
            f"{host} redirects to {target} ({status}): not followed.", _CHECK_ENDPOINT
        )
    if status == HTTPStatus.NOT_FOUND and "model" in said.lower():
        raise Unreachable(
            f"{host} has no model {endpoint.model!r} (404).", f"Check --model. It said: {said}"
        )
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        raise Unreachable(
            f"{endpoint.address.partition('?')[0]} not found ({status}).", _CHECK_ENDPOINT
        )
    raise InputRefused(
        f"{host} refused the request ({status}).", f"It said: {said}" if said else _CHECK_ENDPOINT
    )


def _message_in(endpoint: Endpoint, content: bytes) -> str:
    """Return the message of an error in one line, without the key; "" without one."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
    for name in ("error", "message"):
        found = cast("dict[str, Any]", found).get(name, found) if isinstance(found, dict) else found
    text = " ".join(found.split()) if isinstance(found, str) else ""
    text = text.replace(endpoint.key, "…") if endpoint.key else text
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _parse(endpoint: Endpoint, content: bytes) -> Reply | None:
    """Return the reply in an answer; None for truncated JSON. Raises Unreachable for others."""
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"]["content"] or ""
        if isinstance(text, str):
            return Reply(text, choice.get("finish_reason") == "length")
    except (ValueError, RecursionError):
        if content.lstrip().startswith(b"{"):
            return None
    except (TypeError, KeyError, IndexError, AttributeError):
        pass
    raise Unreachable(
        f"{endpoint.host} is not an OpenAI-compatible API: unexpected answer.", _CHECK_ENDPOINT
    )
