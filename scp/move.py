"""C-MOVE as SCP (PS3.4 C.4.2): sub-operations over associations of our own to the destination.

Each association to the destination has a thread. The requestor's own thread counts what they report, tells
the requestor how far we are, also while nothing gets on, and hears C-CANCEL.
"""

import contextvars
import queue
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass

from dcmpress.scp import compressed
from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    MOVE_DESTINATION,
    MOVE_ORIGINATOR_AE_TITLE,
    MOVE_ORIGINATOR_MESSAGE_ID,
    PRIORITY,
    Command,
    number,
    text,
)
from dcmpress.scp.destination import DestinationError, Destinations, Proposals, Share, call, shares_of
from dcmpress.scp.errors import NetworkError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.retrieve import (
    LARGEST_COUNT,
    Retrieval,
    context_for,
    locate,
    log_failed,
    outgoing,
    store_request,
    sub_operation_status,
)
from dcmpress.scp.settings import Peer, ScpSettings
from dcmpress.scp.status import MOVE_DESTINATION_UNKNOWN, SUCCESS, UNABLE_TO_PROCESS
from dcmpress.storage.archive import Archive
from dcmpress.storage.exchange import whole_blobs
from dcmpress.storage.retrieve import Failed, Outgoing

MOST_BREAKS = 3
"""Times in a row that an association breaks before it has delivered anything, after which we give up."""

_PENDING_INTERVAL = 5.0
"""Seconds after which the requestor hears from us though nothing has got on: it must not time out."""

_TICK = 0.05
"""Seconds between two looks for C-CANCEL while nothing gets on."""


def serve_move(
    archive: Archive,
    association: Association,
    context: Context,
    command: Command,
    settings: ScpSettings,
    destinations: Destinations,
) -> None:
    """Serve a C-MOVE: send what matches to the destination, then the final response."""
    located = locate(archive, association, context, command)
    if located is None:
        return
    retrieval = Retrieval(association, context, command, len(located))
    destination = settings.known_peers.get(text(command, MOVE_DESTINATION))
    if destination is None:
        title = text(command, MOVE_DESTINATION)
        problem = f"{title} is not in dicom.peers" if title else "no Move Destination is named"
        logger.warning("move destination unknown", advice=f"add {title} with host and port to dicom.peers")
        retrieval.finish(status=MOVE_DESTINATION_UNKNOWN, problem=problem)
        return
    shares = shares_of(located, destination.associations, blobs=settings.exchange_compressed)
    retrieval.finish(problem=_Move(archive, retrieval, destination, settings, destinations, shares).run())


@dataclass(frozen=True)
class _Ended:
    """A sub-operation has ended."""

    sop_instance_uid: str
    status: int


class _ThreadEnded:
    """A thread has no more to do."""


class _Move:
    """The sub-operations of one C-MOVE."""

    def __init__(
        self,
        archive: Archive,
        retrieval: Retrieval,
        destination: Peer,
        settings: ScpSettings,
        destinations: Destinations,
        shares: list[Share],
    ) -> None:
        self._archive = archive
        self._retrieval = retrieval
        self._destination = destination
        self._settings = settings
        self._destinations = destinations
        self._shares = shares
        self._lock = threading.Lock()
        # A thread is at most one report ahead: a requestor that goes away or cancels stops the sending.
        self._reports: queue.Queue[_Ended | _ThreadEnded] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._abandoned = False
        self._gave_up = False
        self._calling = 0
        self._problem = ""

    # In the requestor's thread

    def run(self) -> str:
        """Carry out every sub-operation; return what kept one from working, or "".

        Raises
        ------
        NetworkError
            If the requestor goes away: nothing more is sent.
        """
        threads: list[threading.Thread] = []
        try:
            # A thread that ends early gives its share back: another round takes that up.
            while self._shares and not self._gave_up and not self._retrieval.cancelled:
                threads = self._start_threads()
                self._listen(len(threads))
        except BaseException:
            self._abandon()
            for thread in threads:
                thread.join()
            raise
        progress = self._retrieval.progress
        if not self._retrieval.cancelled:
            for share in self._shares:
                for item in share.waiting:
                    progress.count(item.sop_instance_uid, UNABLE_TO_PROCESS)
        return self._problem if progress.failed else ""

    def _abandon(self) -> None:
        """Let the threads end by themselves; nobody listens to them any more."""
        self._abandoned = True
        self._stop.set()

    def _start_threads(self) -> list[threading.Thread]:
        threads: list[threading.Thread] = []
        for _ in self._shares[: self._destination.associations]:
            first = not threads
            if not self._destinations.take(self._destination, first=first):
                break
            run = contextvars.copy_context().run  # the log's
            threads.append(
                threading.Thread(target=run, args=(self._work, first), name="sub-operations", daemon=True)
            )
        for thread in threads:
            thread.start()
        return threads

    def _listen(self, n_threads: int) -> None:
        """Count what the threads report until they have ended."""
        retrieval = self._retrieval
        told = time.monotonic()
        while n_threads:
            try:
                report = self._reports.get(timeout=_TICK)
            except queue.Empty:
                if retrieval.cancelled:
                    if n_threads <= self._calling:  # nothing is under way but calls, which may take long
                        self._abandon()
                        return
                elif retrieval.progress.remaining and time.monotonic() - told > _PENDING_INTERVAL:
                    told = time.monotonic()
                    retrieval.go_on()
                else:
                    retrieval.look_for_cancel()
            else:
                if isinstance(report, _ThreadEnded):
                    n_threads -= 1
                    continue
                retrieval.progress.count(report.sop_instance_uid, report.status)
                told = time.monotonic()
                if not retrieval.cancelled:
                    retrieval.go_on()
            if retrieval.cancelled:
                self._stop.set()

    # In a thread for each association

    def _work(self, first: bool) -> None:
        """Send shares until none is left; the request's first thread is the one that has patience."""
        try:
            self._send_shares(first)
        finally:
            self._destinations.give(self._destination)
            self._report(_ThreadEnded())

    def _send_shares(self, first: bool) -> None:
        outward: Association | None = None
        proposals: Proposals = []
        breaks = 0
        while (share := self._take()) is not None:
            if outward is not None and share.proposals != proposals:
                outward.release()
                outward = None
            delivered = share.delivered
            try:
                if outward is None:
                    outward = self._call(share, first)
                    proposals = share.proposals
                self._send_blobs(outward, share)
                self._send(outward, share)
            except Exception as error:
                self._give_back(share)
                if outward is None:
                    return
                outward.abort()
                outward = None
                self._note(error)
                breaks = breaks + 1 if share.delivered == delivered else 1
                if breaks == MOST_BREAKS:
                    self._gave_up |= first
                    return
            else:
                self._give_back(share)
        if outward is not None:
            if self._abandoned:
                outward.abort()
            else:
                outward.release()

    def _call(self, share: Share, first: bool) -> Association:
        """Open an association. That a further one fails is no problem as long as the first does not."""
        patience = self._settings.move_retry_seconds if first else 0.0
        with self._lock:
            self._calling += 1
        try:
            return call(self._destination, share.proposals, self._settings, self._stop, patience)
        except Exception as error:
            if first:
                self._note(error)
                self._gave_up = True
            raise
        finally:
            with self._lock:
                self._calling -= 1

    def _take(self) -> Share | None:
        with self._lock:
            if self._stop.is_set() or self._gave_up or not self._shares:
                return None
            return self._shares.pop(0)

    def _give_back(self, share: Share) -> None:
        with self._lock:
            if share.waiting:
                self._shares.insert(0, share)

    def _send_blobs(self, outward: Association, share: Share) -> None:
        """Send what makes whole blobs to a node that takes them; the rest stays in the share."""
        context = compressed.context_of(outward)
        if context is None:
            return
        for blob in whole_blobs(self._archive, share.waiting):
            if self._stop.is_set():
                return
            if blob.name in share.tried_blobs:
                continue
            share.tried_blobs.add(blob.name)
            retrieval = self._retrieval
            priority = number(retrieval.command, PRIORITY)
            try:
                status = compressed.send_blob(
                    outward, context, blob, priority, retrieval.association.calling_ae, retrieval.message_id
                )
            except NetworkError as error:
                raise DestinationError(str(error)) from error
            share.delivered += 1
            if status == SUCCESS:
                sent = {item.sop_instance_uid for item in blob.instances}
                share.waiting = deque(item for item in share.waiting if item.sop_instance_uid not in sent)
                for uid in sorted(sent):
                    self._report(_Ended(uid, SUCCESS))

    def _send(self, outward: Association, share: Share) -> None:
        """Send instances, taking each off its share as its sub-operation begins."""
        by_class: dict[str, list[Context]] = defaultdict(list)
        for candidate in outward.negotiated.contexts.values():
            by_class[candidate.abstract_syntax].append(candidate)
        preferred = self._settings.preferred_by(self._destination.ae_title)
        sent = outgoing(self._archive, list(share.waiting), by_class, preferred)
        for message_id, item in enumerate(sent, 1):
            if self._stop.is_set():
                return
            located = share.waiting.popleft()
            if isinstance(item, Failed):
                log_failed(item)
                status = UNABLE_TO_PROCESS
            else:
                target = context_for(by_class, item)
                try:
                    status = self._deliver(outward, target, item, message_id % LARGEST_COUNT + 1)
                except Exception:
                    if located.sop_instance_uid in share.broken:
                        self._report(_Ended(located.sop_instance_uid, UNABLE_TO_PROCESS))
                    else:  # once more, after the others
                        share.broken.add(located.sop_instance_uid)
                        share.waiting.append(located)
                    raise
                share.delivered += 1
            self._report(_Ended(located.sop_instance_uid, status))

    def _deliver(self, outward: Association, target: Context, item: Outgoing, message_id: int) -> int:
        """Send one instance to the destination; return the status that it answers with."""
        retrieval = self._retrieval
        request = store_request(item, message_id, number(retrieval.command, PRIORITY))
        request[MOVE_ORIGINATOR_AE_TITLE] = retrieval.association.calling_ae
        request[MOVE_ORIGINATOR_MESSAGE_ID] = retrieval.message_id
        try:
            outward.send(target, request, item.pieces())
            return sub_operation_status(outward, message_id, None)
        except NetworkError as error:
            raise DestinationError(str(error)) from error

    def _note(self, error: Exception) -> None:
        if isinstance(error, DestinationError):
            self._problem = str(error)
            logger.warning("destination fails", destination=self._destination.ae_title, problem=str(error))
        else:
            self._problem = "internal error"
            logger.exception("sub-operation fails")

    def _report(self, report: _Ended | _ThreadEnded) -> None:
        while not self._abandoned:
            try:
                self._reports.put(report, timeout=_TICK)
                return
            except queue.Full:
                continue
