"""Keyed hashes: how patients, visits, messages and staff identifiers are known again without being kept."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace

from leeward.people import keyed_hash
from leeward.settings.keys import Keyring
from services.incident.decisions.claims import Identifier, PatientClaim, Report, Signal, Visit


@dataclass(frozen=True, repr=False)
class Hasher:
    """One key a purpose, so that no two kinds of hashes can be compared."""

    patient: bytes
    visit: bytes
    message: bytes
    staff: bytes

    @classmethod
    def of(cls, keys: Keyring) -> "Hasher":
        """The keys of a service's keyring."""
        return cls(*(keys.derive(f"incident {name}") for name in ("patient", "visit", "message", "staff")))

    def of_patient(self, identifier: Identifier) -> str:
        """The hash of a patient's identifier; systems are compared without case, an OID with or without `urn:oid:`."""
        system = (identifier.system or "").casefold().removeprefix("urn:oid:")
        return keyed_hash(self.patient, system, identifier.value)

    def of_patients(self, identifiers: Iterable[Identifier]) -> tuple[str, ...]:
        """The same for several."""
        return tuple(self.of_patient(one) for one in identifiers)

    def of_visit(self, visit: Visit) -> Visit:
        """A visit whose numbers are hashes."""
        return Visit(*(keyed_hash(self.visit, one) if one else "" for one in visit))

    def of_staff(self, identifier: Identifier) -> str:
        """The hash of a staff identifier; one of an authority that is not listed never equals one that is."""
        if identifier.system is None:
            return keyed_hash(self.staff, "unlisted", identifier.authority, identifier.value)
        return keyed_hash(self.staff, "listed", identifier.system, identifier.value)

    def of_message(self, *parts: bytes) -> str:
        """The hash of a message's names and body."""
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self.message, message, "sha256").hex()


def hash_signal(said: PatientClaim | Report, hasher: Hasher) -> Signal:
    """What goes on to the database: patients and visits as keyed hashes; a report is about one only where they died."""
    if isinstance(said, Report):
        patient = said.patient if said.severity.level == "death" else ()
        return Signal(replace(said, patient=()), hasher.of_patients(patient))
    return Signal(
        said=replace(said, visit=hasher.of_visit(said.visit), patient=(), merges=()),
        keys=hasher.of_patients(said.patient),
        merges=tuple((hasher.of_patients(pair.surviving), hasher.of_patients(pair.prior)) for pair in said.merges),
    )
