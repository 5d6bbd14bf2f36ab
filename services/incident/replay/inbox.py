"""The raw inbox, read by the rules that hold now."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection

from leeward.clock import FixedClock
from leeward.sealing import CannotOpen
from leeward.settings import Settings
from leeward.settings.keys import Keyring
from leeward.settings.policy import Source, SourceKind
from services.incident.decisions.claims import PatientClaim, Report, Signal, limit_to_evidence
from services.incident.hashing import Hasher, hash_signal
from services.incident.intake.subscriptions import is_behind
from services.incident.replay import queries
from services.incident.replay.trial import Stored
from services.incident.sealing import Box, DayKeys
from services.incident.sources.fhir.routes import said_by, turn_of
from services.incident.sources.fhir.tree import JsonError
from services.incident.sources.hl7v2.receiver import read_hl7
from services.incident.sources.native.report import NativeIncident
from services.incident.sources.native.table import TableError, read_table


class UnreadableMessage(Exception):
    """A stored message that these rules do not take."""


def read_stored_hl7(raw: bytes, name: str, source: Source, at: datetime) -> Sequence[PatientClaim | Report]:
    """What an HL7 v2 message said when it came."""
    reading = read_hl7(raw, {name: source}, FixedClock(at), name)
    if reading.fault:
        raise UnreadableMessage(reading.fault.reason)
    return reading.said


def read_stored_report(raw: bytes, name: str, _source: Source, _at: datetime) -> Sequence[PatientClaim | Report]:
    """JSON or a table; what was accepted is one of the two, unless the rules for it have changed."""
    try:
        found = [NativeIncident.model_validate_json(raw)] if raw.lstrip()[:1] == b"{" else read_table(raw)
    except (TableError, ValueError):
        raise UnreadableMessage("not_valid") from None
    return [one.report(name) for one in found]


def read_stored_fhir(raw: bytes, name: str, source: Source, at: datetime) -> Sequence[PatientClaim | Report]:
    """What a notification or a resource said when it came."""
    try:
        return said_by(raw, name, source, at)
    except JsonError as fault:
        raise UnreadableMessage(fault.reason) from None


Reader = Callable[[bytes, str, Source, datetime], Sequence[PatientClaim | Report]]
READERS: Final[Mapping[SourceKind, Reader]] = MappingProxyType(
    {"hl7v2": read_stored_hl7, "native": read_stored_report, "fhir": read_stored_fhir}
)


class Inbox:
    """Messages since a time, read with the keys that are left, each once."""

    def __init__(self, settings: Settings, keys: Keyring, since: datetime) -> None:
        self._sources = settings.sources
        self._hasher = Hasher.of(keys)
        self._day_keys = DayKeys(keys)
        self._since = since
        self._boxes: dict[str, Box | None] = {}
        self._read: set[str] = set()
        self._last: dict[tuple[str, str], int] = {}  # the last event of each subscription
        self.refused: Counter[str] = Counter()

    def list_unread(self, conn: Connection) -> list[Stored]:
        """What has come since and was not read yet, in its order."""
        rows = queries.list_stored(conn, self._since, Stored._fields)
        unread = [Stored._make(row) for row in rows if row.raw_ref not in self._read]
        return sorted(unread, key=lambda one: (one.place, one.accepted_at))

    def read(self, conn: Connection, stored: Sequence[Stored]) -> Iterator[tuple[Stored, list[Signal]]]:
        """What each says; those that cannot be read are counted, by reason."""
        sealed = queries.read_sealed(conn, (one.raw_ref for one in stored))
        for one in stored:
            self._read.add(one.raw_ref)
            try:
                said = self._read_one(conn, one, sealed.get(one.raw_ref))
            except UnreadableMessage as fault:
                self.refused[str(fault)] += 1
                continue
            yield one, [hash_signal(each, self._hasher) for each in said]

    def _read_one(self, conn: Connection, one: Stored, sealed: str | None) -> Sequence[PatientClaim | Report]:
        if one.key_ref not in self._boxes:
            self._boxes[one.key_ref] = self._day_keys.open(conn, one.key_ref)
        box, source = self._boxes[one.key_ref], self._sources.get(one.source)
        if box is None or sealed is None:
            raise UnreadableMessage("key_destroyed")
        if source is None:
            raise UnreadableMessage("no_such_source")
        try:
            raw = box.open(sealed, one.raw_ref)
        except CannotOpen:
            raise UnreadableMessage("not_whole") from None
        said = READERS[source.kind](raw, one.source, source, one.accepted_at)
        if source.kind == "fhir" and (turn := turn_of(raw)):
            key, last = (one.source, turn[0]), self._last.get((one.source, turn[0]), 0)
            self._last[key] = max(last, turn[1])
            # a notification that came after later events of its subscription
            return [limit_to_evidence(each) for each in said] if is_behind(turn[1], last) else said
        return said
