"""A model of KV that goes from worker to worker.

It follows `runtime/worker/engines/kv_exchange.py`: who borrows waits for what others are already getting;
who lends answers as soon as nobody reads more of the prompt there, or patience is at an end; what has come is
in the cache before the prompt is read, and meanwhile both engines work on. Whatever goes wrong, the prompt is
read. Blocks come whole here: of one that is cut off nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from .cache import Path, shared_tokens
from .clock import Alarm, Clock
from .link import Port, Shipment
from .llm import LlmModel

__all__ = ["NOTHING", "Borrowed", "ExchangeModel", "Loan"]

_LEAST: Final = 64  # tokens: for fewer nobody is asked
_LEAST_SENT: Final = 16
_LONGEST_WAIT_S: Final = 60.0
_GRACE_S: Final = 0.1  # for tasks that are to read what is asked for, and are on their way there


class Borrowed(NamedTuple):
    """What came from another worker."""

    tokens: float
    seconds: float  # that its coming took, from the question on


NOTHING: Final = Borrowed(0.0, 0.0)


@dataclass(eq=False)
class Loan:
    """The KV of a prompt that a task wants before it is read."""

    path: Path
    then: Callable[[Borrowed], None]
    lender: ExchangeModel | None
    wait_s: float  # for a lender that is still reading it
    borrower: ExchangeModel
    first: float = 0.0  # token that is wanted: those before are held
    asked: float = 0.0  # when the lender heard of it
    shipment: Shipment | None = None
    shipped: float = 0.0  # when it began to come
    alarms: list[Alarm] = field(default_factory=list)
    over: bool = False


class ExchangeModel:
    """Lends the KV of one model's cache, and borrows for it."""

    def __init__(self, model: LlmModel, port: Port, clock: Clock) -> None:
        self.alive = True
        self._model = model
        self._port = port
        self._clock = clock
        self._coming: list[Loan] = []  # to this cache
        self._held_up: list[Loan] = []  # until something else has come
        self._asked: list[Loan] = []  # of this cache, and not answered
        self._sent: list[Loan] = []  # from this cache, on their way
        model.after_step = self._serve

    def close(self) -> None:
        """The worker is gone: what has come from it stays, what it was to send does not come."""
        self.alive = False
        for loan in [*self._asked, *self._sent]:
            self._withdraw(loan)
            loan.borrower._arrive(loan, loan.shipment.stop() if loan.shipment is not None else 0.0)

    # ---- borrowing

    def borrow(
        self, path: Path, lender: ExchangeModel | None, wait_s: float, then: Callable[[Borrowed], None]
    ) -> Loan:
        """Get what `lender` has of a prompt and the cache has not; `then` may be called at once.

        What another task is getting is waited for, with or without a lender of its own.
        """
        loan = Loan(path, then, lender, wait_s, self)
        self._begin(loan)
        return loan

    def cancel(self, loan: Loan) -> None:
        """It is not wanted any more; nobody hears of it again."""
        loan.over = True
        if loan in self._held_up:
            self._held_up.remove(loan)
        elif loan in self._coming:
            assert loan.lender is not None
            loan.lender._withdraw(loan)
            if loan.shipment is not None:
                loan.shipment.stop()
                loan.shipment = None
            self._came(loan)

    def _begin(self, loan: Loan) -> None:
        held = self._model.cache.match(loan.path, self._clock.now)
        if self._is_coming(loan.path, held):
            self._held_up.append(loan)
            return
        if loan.lender is None or loan.path[-1].tokens - held < _LEAST:
            self._end(loan, NOTHING)
            return
        loan.first = held
        self._coming.append(loan)
        self._clock.after(self._model.profile.link_ms / 1e3, partial(loan.lender._ask, loan))

    def _is_coming(self, path: Path, held: float) -> bool:
        """Whether something is under way of which a prompt, `held` tokens of it there, can use most."""
        for loan in self._coming:
            use = shared_tokens(loan.path, path) - max(loan.first, held)
            if use >= max(_LEAST, (loan.path[-1].tokens - loan.first) / 2):
                return True
        return False

    def _arrive(self, loan: Loan, size: float) -> None:
        """So many bytes have come, and nothing more will."""
        end = loan.first + size / self._model.profile.kv_token_bytes + 1e-6
        tokens = self._keep([boundary for boundary in loan.path if boundary.tokens <= end])
        asking_s = self._model.profile.link_ms / 1e3
        seconds = self._clock.now - loan.shipped + asking_s if loan.shipment is not None else 0.0
        loan.shipment = None
        self._end(loan, Borrowed(tokens, seconds))
        self._came(loan)

    def _keep(self, path: Path) -> float:
        """Put it into the cache as far as running requests leave room; the tokens that are new there."""
        cache, now = self._model.cache, self._clock.now
        held = cache.match(path, now)
        room = held + cache.available
        path = [boundary for boundary in path if boundary.tokens <= room]
        if not path or path[-1].tokens <= held:
            return 0.0
        locked = cache.lock(path)
        while path and path[-1].tokens - held > cache.available:  # what was evictable is locked now
            path.pop()
        tokens = path[-1].tokens - held if path else 0.0
        if tokens > 0:
            cache.make_room(tokens)
            cache.insert(path, now)
        cache.unlock(locked)
        return max(tokens, 0.0)

    def _came(self, loan: Loan) -> None:
        """Whoever waits for what was under way need not any longer."""
        self._coming.remove(loan)
        held_up, self._held_up = self._held_up, []
        for other in held_up:
            self._begin(other)
        self._serve()

    def _end(self, loan: Loan, borrowed: Borrowed) -> None:
        loan.over = True
        loan.then(borrowed)

    # ---- lending

    def _ask(self, loan: Loan) -> None:
        if loan.over:
            return
        if not self.alive:
            loan.borrower._arrive(loan, 0.0)
            return
        now = loan.asked = self._clock.now
        loan.wait_s = min(loan.wait_s, _LONGEST_WAIT_S)
        self._asked.append(loan)
        loan.alarms = [
            self._clock.at(now + s, self._serve) for s in sorted({min(loan.wait_s, _GRACE_S), loan.wait_s})
        ]
        self._serve()

    def _serve(self) -> None:
        """Answer what can be answered."""
        for loan in list(self._asked):
            if loan in self._asked:  # an answer may have others called off
                self._answer(loan)

    def _answer(self, loan: Loan) -> None:
        now = self._clock.now
        held = self._model.cache.match(loan.path, now)
        waited = now - loan.asked + 1e-9
        more = self._is_coming(loan.path, held) or self._model.is_reading(loan.path, held)
        if more and waited < loan.wait_s:
            return
        tokens = held - loan.first
        if tokens < _LEAST_SENT:
            if waited >= min(_GRACE_S, loan.wait_s):
                self._withdraw(loan)
                loan.borrower._arrive(loan, 0.0)
            return
        self._withdraw(loan)
        self._sent.append(loan)
        loan.shipped = now
        size = tokens * self._model.profile.kv_token_bytes
        loan.shipment = Shipment(
            self._port, loan.borrower._port, size, self._clock, partial(self._delivered, loan, size)
        )

    def _delivered(self, loan: Loan, size: float) -> None:
        self._sent.remove(loan)
        loan.borrower._arrive(loan, size)

    def _withdraw(self, loan: Loan) -> None:
        """Have nothing to do with it any more."""
        for alarm in loan.alarms:
            alarm.call_off()
        loan.alarms = []
        for loans in (self._asked, self._sent):
            if loan in loans:
                loans.remove(loan)
