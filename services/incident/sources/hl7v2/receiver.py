"""Receives HL7 v2: bytes of an HL7 v2 message in, its acknowledgement out once it is stored. Patient data ends here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from leeward import telemetry
from leeward.clock import Clock
from leeward.settings.policy import Source
from leeward.store import StoreUnavailable
from leeward.timekeeping.guard import bear_out, is_uncertain
from services.incident.decisions.claims import PatientClaim, Report
from services.incident.hashing import Hasher, hash_signal
from services.incident.intake.intake import Intake, Item
from services.incident.sources.hl7v2.ack import Header, build_answers, guess_header, header_of, internal_error
from services.incident.sources.hl7v2.adt import check_header, moment, read_message, source_of
from services.incident.sources.hl7v2.mllp import Oversized
from services.incident.sources.hl7v2.parser import Hl7Error, Hl7Message

STORAGE_FAULTS: Final = (StoreUnavailable, DBAPIError, OSError)


@dataclass(frozen=True, slots=True)
class Reading:
    """A message as far as it could be read; `fault` says why it is refused."""

    header: Header
    source: str = ""
    said: tuple[PatientClaim | Report, ...] = ()
    fault: Hl7Error | None = None

    @property
    def claim(self) -> PatientClaim | None:
        """What it claims of its patient, where it is a message about one."""
        return next((one for one in self.said if isinstance(one, PatientClaim)), None)


@dataclass(frozen=True)
class Hl7Receiver:
    """Reads, hands to intake, answers."""

    sources: Mapping[str, Source]
    clock: Clock
    hasher: Hasher
    intake: Intake

    async def from_mllp(self, frame: bytes | Oversized, source: str | None = None) -> list[bytes]:
        """The answers to one frame; a given source has shown who it is, else the frame says whose it is.

        Raises:
            leeward.store.StoreUnavailable: nothing was stored, nothing may be answered.
        """
        if isinstance(frame, Oversized):
            fault = Hl7Error(104, "MSH^1", "too_large")
            return self._refuse(Reading(guess_header(frame.head), fault=fault), "mllp")
        return await self._receive(frame, source, "mllp")

    async def from_http(self, body: bytes, source: str) -> list[bytes]:
        """The same for a message of a source that has shown who it is."""
        return await self._receive(body, source, "http")

    async def _receive(self, raw: bytes, source: str | None, way: str) -> list[bytes]:
        try:
            reading = read_hl7(raw, self.sources, self.clock, source)
            if is_uncertain(self.clock) and reading.source and not reading.fault:
                await bear_out(self.clock, sent_at(raw, self.sources[reading.source]))
                reading = read_hl7(raw, self.sources, self.clock, source)
            if reading.fault:
                return self._refuse(reading, way)
            if reading.header.is_acknowledgement:
                return []
            header = reading.header
            fingerprint = self.hasher.of_message(header.raw(3), header.raw(4), header.control_id, raw)
            signals = tuple(hash_signal(one, self.hasher) for one in reading.said)
            accepted = await self.intake(Item(reading.source, raw, fingerprint, signals))
        except STORAGE_FAULTS:
            telemetry.MESSAGES_REFUSED.labels(way, "storage").inc()
            raise
        except Exception as fault:
            # one message that this program cannot handle must not hold up a feed: it is told so and sends the next
            telemetry.MESSAGES_REFUSED.labels(way, "internal").inc()
            telemetry.log("message_failed", fault=type(fault).__name__, place=telemetry.place(fault))
            return internal_error(guess_header(raw), self.clock.now(), uuid4().hex[:16])
        (telemetry.MESSAGES_REPEATED if accepted.repeated else telemetry.MESSAGES_ACCEPTED).labels(reading.source).inc()
        ident = self.hasher.of_message(b"answer", fingerprint.encode())[:16]
        return build_answers(reading.header, None, accepted.accepted_at, ident)

    def _refuse(self, reading: Reading, way: str) -> list[bytes]:
        assert reading.fault is not None
        telemetry.MESSAGES_REFUSED.labels(way, reading.fault.reason).inc()
        return build_answers(reading.header, reading.fault, self.clock.now(), uuid4().hex[:16])


def sent_at(raw: bytes, source: Source) -> datetime | None:
    """When a message that can be read was made, by its sender's clock (MSH-7); None where it does not say exactly."""
    made = moment(Hl7Message(raw).segment(b"MSH").text(7), source.timezone)
    return made.at if made and not made.coarse else None


def read_hl7(raw: bytes, sources: Mapping[str, Source], clock: Clock, source: str | None = None) -> Reading:
    """A message as far as it can be read, and whose it is; a given source has already shown who it is."""
    try:
        message = Hl7Message(raw)
    except Hl7Error as fault:
        return Reading(guess_header(raw), source or "", fault=fault)
    header = header_of(message)
    name = source or source_of(header, message, sources)
    if name is None:
        return Reading(header, fault=Hl7Error(103, "MSH^1^3", "unknown_source"))
    try:
        if not header.is_acknowledgement:
            check_header(header, sources[name])
    except Hl7Error as fault:
        return Reading(header, name, fault=fault)
    return Reading(header, name, read_message(message, header, name, sources[name], clock.now()))
