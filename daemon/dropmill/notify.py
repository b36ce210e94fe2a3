"""sd_notify: what systemd is told of the service, and nothing where nobody asked for it.

The protocol (sd_notify(3)) is a datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET
names. Nothing here waits and nothing here raises: whoever does not listen misses something.

The watchdog is fed by progress alone, at about a third of its time, by the main loop at the end of
a round. A round that ends is one half of it: a main loop that hangs ends none. The other half is a
sign of life from the pool within the watchdog time (`Pool.last_sign`): a worker's answer to a no-op
that went through the Queue, or any other report of one. What somebody else guards counts as a sign
too: a file in hand (`limits.timeout` ends it), a worker that is starting, a generation that waits
for its back-off. So a pool that is paused, that has no room on its disk or that works on one image
for two minutes is left alone; one whose workers sit at a Queue that gives them nothing is not. From
a hang to the kill it takes the watchdog time at least, twice that at most.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping

from .log import printable

_MOST_UNSENT = 16
_EXTEND_EVERY = 1.0  # seconds
_EXTENSION = 30.0  # seconds that one asks for more than it expects to need


class Notify:
    """The line to systemd, and what it was told last. For the main loop's thread."""

    def __init__(
        self,
        address: str = "",
        watchdog: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`address` as in NOTIFY_SOCKET, empty for nobody; `watchdog` in seconds."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._clock = clock
        self._watchdog = watchdog if address else None
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "\0")):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, kind)
        self._unsent: deque[bytes] = deque(maxlen=_MOST_UNSENT)
        self._told = ""  # the sentence that systemd has
        self._tell_at = self._beat_at = self._extend_at = 0.0

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notify:
        """As systemd asks for it; its variables are taken out, so that no worker inherits them."""
        address = environment.pop("NOTIFY_SOCKET", "")
        time_us = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        is_ours = process in ("", str(os.getpid()))
        watchdog = int(time_us) / 1e6 if is_ours and time_us.isdecimal() else None
        return cls(address, watchdog or None)

    @property
    def is_heard(self) -> bool:
        """Whether anybody asked to be told."""
        return self._socket is not None

    # ---- how it stands with the service --------------------------------------------------------

    def ready(self) -> None:
        """It is up, or up again after `reloading`."""
        self._say("READY=1")

    def reloading(self) -> None:
        """A changed configuration is being put in force; `ready` is to follow."""
        # Which reload this answers, systemd sees by the time (systemd.service(5), notify-reload).
        self._say(
            f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def extend(self, seconds: float = 0.0) -> None:
        """Asks for more time than the unit grants a start, a reload or a stop, from now on.

        To be called again and again while something goes on: it is passed on once a second.
        """
        now = self._clock()
        if now >= self._extend_at:
            self._extend_at = now + _EXTEND_EVERY
            self._say(f"EXTEND_TIMEOUT_USEC={int((seconds + _EXTENSION) * 1e6)}")

    # ---- a sentence for `systemctl status` ----------------------------------------------------

    def wants_status(self) -> bool:
        """Whether a new sentence may be told: once a second."""
        return self.is_heard and self._clock() >= self._tell_at

    def status(self, sentence: str) -> None:
        """Tells it, where it is another than the last."""
        sentence = printable(sentence)
        self._tell_at = self._clock() + 1.0
        if sentence != self._told and self._send(f"STATUS={sentence}".encode(errors="replace")):
            self._told = sentence

    # ---- the watchdog --------------------------------------------------------------------------

    def due(self) -> float | None:
        """When the next beat is, by the clock; None: systemd does not watch."""
        return self._beat_at if self._watchdog is not None and self.is_heard else None

    def beat(self, last_sign: float) -> bool:
        """At the end of a round of the main loop; `last_sign` is the pool's, by the clock.

        Gives whether this was the time to ask the pool for its next sign.
        """
        now = self._clock()
        if self._watchdog is None or now < self._beat_at:
            return False
        self._beat_at = now + self._watchdog / 3
        if now - last_sign < self._watchdog:
            self._send(b"WATCHDOG=1")
        return True

    # ---- the datagram --------------------------------------------------------------------------

    def retry(self) -> None:
        """Sends what could not be sent because systemd's end was full."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _say(self, message: str) -> None:
        """What must arrive, and in order."""
        self._unsent.append(message.encode())
        self.retry()

    def _send(self, message: bytes) -> bool:
        """Whether nothing is to be gained by sending it again."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError:
            pass  # nobody is there
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
