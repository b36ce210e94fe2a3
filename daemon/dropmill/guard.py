"""The guard: who among the workers takes too long or too much, hangs, or shows no sign of life."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .blame import Blame
from .job import Job
from .slots import Phase, Slot, Slots
from .worker_handle import WorkerHandle

_BOOT = 60.0
_LEAVE = 10.0  # seconds in which a worker with nothing in hand makes place for its successor


class Guard:
    """Looks at the workers' slots, and ends those that it must."""

    def __init__(self, slots: Slots, blame: Blame, messages: Mapping[int, tuple[Job, ...]]) -> None:
        """`messages` are those that are not answered, by number."""
        self._slots = slots
        self._blame = blame
        self._messages = messages

    def in_hand(self, slot: Slot) -> Job | None:
        jobs = self._messages.get(slot.message, ())
        return next((job for job in jobs if job.take == slot.take), None)

    def check(self, worker: WorkerHandle, now: float) -> None:
        """Ends one that does not start, does not leave, or is beyond a limit with a take."""
        if worker.sentence is not None:
            return
        if not worker.up and now - worker.started > _BOOT:
            worker.kill()
        slot = self._slots.read(worker.number)
        if slot.phase is Phase.WAITING and worker.has_dawdled(slot, now) > _LEAVE:
            worker.kill()
        if slot.phase is Phase.WORKING and slot.take:
            worker.still_for(slot, now)
            job = self.in_hand(slot)
            size = job.fingerprint.size if job is not None else 0
            reason = self._blame.excess(now - slot.since, size, worker.resident())
            if reason is not None and self._slots.read(worker.number) == slot:
                worker.sentence_to_death(slot, reason)

    def end_those_at(
        self, roots: Collection[bytes], workers: Sequence[WorkerHandle], seconds: float, now: float
    ) -> bool:
        """Ends the workers that have stood still at a file of these roots for so long.

        Gives whether more of these roots waits on the Queue.
        """
        begun = set()
        for worker in workers:
            slot = self._slots.read(worker.number)
            begun.add(slot.message)
            job = self.in_hand(slot)
            is_at_it = slot.phase is Phase.WORKING and job is not None and job.root in roots
            if is_at_it and worker.sentence is None and worker.still_for(slot, now) > seconds:
                worker.sentence_to_death(slot, None)
        waiting = (jobs for number, jobs in self._messages.items() if number not in begun)
        return any(job.root in roots for jobs in waiting for job in jobs)

    def is_guarded(self, worker: WorkerHandle) -> bool:
        """Whether it is at something that a limit of its own ends: a start, a file in hand."""
        if worker.sentence is not None:
            return False  # it was killed; one that does not die of it is no sign of life
        slot = self._slots.read(worker.number)
        return not worker.up or (slot.phase is Phase.WORKING and slot.take != 0)
