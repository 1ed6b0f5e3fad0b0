"""Requests for storage commitment, kept until they are answered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.models import CommitmentRequest


@dataclass(frozen=True, slots=True)
class PendingCommitment:
    """A request that is to be answered."""

    pk: int
    transaction_uid: str
    requestor_ae: str
    references: tuple[tuple[str, str], ...]
    """(SOP class UID, SOP instance UID) of the instances in question."""
    received_at: datetime
    attempts: int


_DUE = (
    select(
        CommitmentRequest.pk,
        CommitmentRequest.transaction_uid,
        CommitmentRequest.requestor_ae,
        CommitmentRequest.references,
        CommitmentRequest.received_at,
        CommitmentRequest.attempts,
    )
    .where(CommitmentRequest.next_attempt_at <= bindparam("now"))
    .order_by(CommitmentRequest.next_attempt_at)
)


class Commitments:
    """The requests in a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, transaction_uid: str, requestor_ae: str, references: Sequence[tuple[str, str]]) -> int:
        """Keep a request, durably; return its key."""
        now = datetime.now(UTC)
        values = {
            "transaction_uid": transaction_uid,
            "requestor_ae": requestor_ae,
            "references": json.dumps(list(references)),
            "received_at": now,
            "attempts": 0,
            "next_attempt_at": now,
        }
        with self._database.writing(durable=True) as connection:
            return connection.execute(
                insert(CommitmentRequest).returning(CommitmentRequest.pk), values
            ).scalar_one()

    def due(self, now: datetime) -> list[PendingCommitment]:
        """Return the requests to answer now, those waiting for longest first."""
        with self._database.reading() as connection:
            rows: Any = connection.execute(_DUE, {"now": now})
            return [
                PendingCommitment(
                    row[0],
                    row[1],
                    row[2],
                    tuple((sop_class, uid) for sop_class, uid in json.loads(row[3])),
                    *row[4:],
                )
                for row in rows
            ]

    def carry_over(self, url: str) -> int:
        """Take over what another catalog, at `url`, still has to answer; return how many requests.

        Raises
        ------
        CatalogError
            If it cannot be read.
        """
        other = Database(url)
        try:
            waiting = Commitments(other).due(datetime.max.replace(tzinfo=UTC))
        finally:
            other.close()
        for request in waiting:
            self.add(request.transaction_uid, request.requestor_ae, request.references)
        return len(waiting)

    def postpone(self, pk: int, until: datetime, *, failed: bool) -> None:
        """Answer a request later; `failed`: because the report did not get through."""
        later = update(CommitmentRequest).where(CommitmentRequest.pk == pk)
        attempts = CommitmentRequest.attempts + int(failed)
        with self._database.writing(durable=True) as connection:
            connection.execute(later.values(next_attempt_at=until, attempts=attempts))

    def remove(self, pk: int) -> None:
        """Forget a request that is answered, or given up."""
        with self._database.writing(durable=True) as connection:
            connection.execute(delete(CommitmentRequest).where(CommitmentRequest.pk == pk))
