"""Send requests to a server: a bounded number at a time, each repeated where that may help."""

from __future__ import annotations

import json
import os
import queue
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import anyio.from_thread
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from zerogen.config.schema import PlmConfig
from zerogen.errors import ServerFailed, Unavailable, UserError
from zerogen.plm.protocol import Usage

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
_LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
_WAITS = wait_random_exponential(multiplier=1, max=_LONGEST_WAIT)  # with "full jitter"
_FAILURES = 8  # one after the other that end a run, at least
_CONNECT = 20.0  # seconds
_RANDOM = random.Random()  # of waiting times only
# What reading an answer raises that does not hold what it should.
MISSHAPEN = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Call:
    """A request: the path after the server's address (from ../ on beside it), and the body, None for a GET."""

    path: str
    body: dict[str, Any] | None = None


@dataclass(frozen=True)
class Failure:
    """A request that has failed for good, and why; status: of the answer, 0 without one."""

    reason: str
    status: int = 0


class _Busy(Exception):
    """A failure that another attempt may mend. after: the seconds that the server wants to be left alone."""

    def __init__(self, reason: str, status: int = 0, after: float | None = None, timeout: bool = False) -> None:
        super().__init__(reason)
        self.status, self.after, self.timeout = status, after, timeout


class Client:
    """Sends JSON to a server, with the key that an environment variable holds.

    A request that the server is too busy for, that fails in it or whose connection breaks is repeated after a random
    time that grows, or the one that the server asks for; one that takes too long, once. What then still fails, or is
    refused, is a `Failure` of that request alone, unless nothing else is answered either.
    """

    def __init__(self, config: PlmConfig) -> None:
        self.url = str(config.base_url).rstrip("/")
        self.key = os.environ.get(config.key_variable, "").strip()
        if config.key_variable != PlmConfig.key_variable and not self.key:  # whose value may be the key by mistake
            raise UserError("plm.key_variable: names no variable of the environment that has a value")
        if not all("!" <= letter <= "~" for letter in self.key):
            raise UserError(f"{config.key_variable}: is no key; allowed are ASCII letters without white space")
        self.variable = config.key_variable
        self.concurrency, self.timeout, self.retries = config.concurrency, config.timeout, config.retries
        self.usage = Usage()
        self._failures = 0  # one after the other

    def probe(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a request at the start of a run, or its `Failure`, which ends nothing.

        Raises `Unavailable` where the server does not answer, or is too busy.
        """

        async def ask() -> Any:
            async with self._connections() as http:
                return await self._attempts(lambda busy: bool(busy.status))(self._once, http, Call(path, body))

        with anyio.from_thread.start_blocking_portal() as portal:
            try:
                return portal.call(ask)
            except _Busy as error:
                why = "is the server busy, or hung?" if error.status or error.timeout else "is the server running?"
                raise Unavailable(f"plm.base_url={self.url}: {error}; {why}") from error

    def one(self, call: Call) -> Any:
        """Return the answer to one request, or its `Failure`."""
        ((_, answer),) = self.send([call])
        return answer

    def send(
        self, calls: Sequence[Call], read: Callable[[Any], Any] = lambda answer: answer
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index, what `read` makes of an answer or `Failure`) as they arrive.

        read: given an answer's JSON value; an answer that makes it raise one of `MISSHAPEN` is a failure.
        Raises `UserError` for a key that is refused and a model that is not there, and `ServerFailed` where the server
        is gone or answers nothing any more.
        """
        if not calls:
            return
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with anyio.from_thread.start_blocking_portal() as portal:
            sending = portal.start_task_soon(self._send_all, calls, read, arrived)
            sending.add_done_callback(lambda future: arrived.put(None))
            try:
                while (item := arrived.get()) is not None:
                    yield item
                sending.result()
            finally:
                sending.cancel()

    async def _send_all(
        self, calls: Sequence[Call], read: Callable[[Any], Any], arrived: queue.SimpleQueue[Any]
    ) -> None:
        numbered = iter(enumerate(calls))
        failures: list[Exception] = []

        async def work(http: httpx.AsyncClient, group: anyio.abc.TaskGroup) -> None:
            for index, call in numbered:
                try:
                    arrived.put((index, await self._answer(http, call, read)))
                except Exception as error:  # of the whole run, not of a request; else it would come in a group
                    failures.append(error)
                    group.cancel_scope.cancel()

        async with self._connections() as http, anyio.create_task_group() as group:
            for _ in range(min(self.concurrency, len(calls))):
                group.start_soon(work, http, group)
        if failures:
            raise failures[0]

    async def _answer(self, http: httpx.AsyncClient, call: Call, read: Callable[[Any], Any]) -> Any:
        """Return what is read of the answer to a request, after as many attempts as it takes, or its `Failure`."""
        attempts = self._attempts(lambda busy: True)
        self.usage.requests += 1
        try:
            answer: Any = await attempts(self._once, http, call)
        except _Busy as error:
            return await self._failed(http, Failure(str(error), error.status))
        if isinstance(answer, Failure):
            return await self._failed(http, answer)
        try:
            answer = read(answer)
        except MISSHAPEN as error:
            reason = str(error) if isinstance(error, ValueError) else f"an answer without {error}: {str(answer)[:80]}"
            return await self._failed(http, Failure(self._without_key(reason), 200))
        self._failures = 0
        return answer

    def _connections(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        timeout = httpx.Timeout(self.timeout, connect=min(_CONNECT, self.timeout))
        try:
            return httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)
        except (ImportError, ValueError) as error:  # a proxy in the environment that cannot be used
            raise UserError(f"plm.base_url={self.url}: {error}") from error

    def _attempts(self, mends: Callable[[_Busy], bool]) -> AsyncRetrying:
        """Return what repeats a request after failures that another attempt mends."""
        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Busy) and mends(error)),
            stop=self._gives_up,
            wait=_wait,
            before_sleep=self._count_retry,
            reraise=True,
        )

    async def _once(self, http: httpx.AsyncClient, call: Call) -> Any:
        beside = call.path.startswith("../")  # what servers offer beside the OpenAI API lies above its /v1
        url = self.url.removesuffix("/v1") + call.path.removeprefix("..") if beside else self.url + call.path
        try:
            response = await (http.get(url) if call.body is None else http.post(url, json=call.body))
        except httpx.TimeoutException as error:
            waits = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
            raise _Busy(f"no answer within {self.timeout:g} seconds (plm.timeout)", timeout=not waits) from error
        except httpx.RequestError as error:
            raise _Busy(self._without_key(str(error) or type(error).__name__)) from error
        except UnicodeError as error:  # half of a character, which no request can hold
            return Failure(f"400 {error}", 400)
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError:
                return Failure(self._without_key(f"no JSON: {response.text[:80]!r}"), 200)
        reason = self._without_key(_reason(response))
        if response.status_code in (401, 403):
            what = f"the key in {self.variable} is refused" if self.key else f"it wants a key; set {self.variable}"
            raise UserError(f"plm.base_url={self.url}: {what} ({reason})")
        after = _retry_after(response)
        if after is not None and after > self.timeout:
            return Failure(f"{reason}; it wants to be asked again in {after:,.0f} seconds", 429)
        if response.status_code in _BUSY:
            raise _Busy(reason, response.status_code, after)
        return Failure(reason, response.status_code)

    def _without_key(self, text: str) -> str:
        """Return what a server says without the key, which some repeat, whole or in part."""
        parts = {self.key[start : start + 8] for start in range(max(1, len(self.key) - 7))} if self.key else set()
        return "(it repeats the key)" if any(part in text for part in parts) else text

    async def _failed(self, http: httpx.AsyncClient, failure: Failure) -> Failure:
        """Count a failure. Raises `ServerFailed` if the server is gone, or if nothing but failures has come lately."""
        self.usage.failed += 1
        self._failures += 1
        kept = "what was finished is kept; run the same command again to go on"
        if not failure.status or failure.status == 429:
            alive = failure.status == 0 and await self._is_there(http)
            if not alive:
                raise ServerFailed(f"plm.base_url={self.url}: {failure.reason}; {kept}")
        if self._failures >= max(_FAILURES, self.concurrency):
            raise ServerFailed(
                f"plm.base_url={self.url}: the last {self._failures} requests failed: {failure.reason}; {kept}"
            )
        return failure

    async def _is_there(self, http: httpx.AsyncClient) -> bool:
        with suppress(httpx.RequestError):
            return (await http.get(f"{self.url}/models", timeout=_CONNECT)).status_code < 500
        return False

    def _gives_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        most = min(1, self.retries) if isinstance(error, _Busy) and error.timeout else self.retries
        return state.attempt_number > most

    def _count_retry(self, state: RetryCallState) -> None:
        self.usage.retries += 1


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, _Busy) else None
    # Never before the server wants it, and not all at the same moment; one that says 0 is still busy.
    return max((after or 0.0) + _RANDOM.random(), _WAITS(state))


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a server asks for, as a number or as a date."""
    said = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    return None


def _reason(response: httpx.Response) -> str:
    """Return the status and what the server says of it, in the layouts that servers use."""
    text = response.text
    with suppress(ValueError):
        said = response.json()
        said = said.get("error", said) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
        text = said if isinstance(said, str) else json.dumps(said)
    return f"{response.status_code} {' '.join(text.split())[:200]}".strip()
