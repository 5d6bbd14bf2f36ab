"""What one batch of messages needs to know of its patients: read in one query, changed in memory, written in bulk."""

from collections.abc import Iterable, Sequence
from datetime import date

from sqlalchemy import Connection

from leeward.refs import new_ref
from services.incident.decisions.claims import Current, Patient, heavier
from services.incident.intake import repository


class Book:
    """The patients of one batch by keyed hash."""

    def __init__(self, conn: Connection, today: date, hashes: Iterable[str]) -> None:
        self._today = today
        self._by_key: dict[str, Patient] = {}
        self._changed: dict[str, Patient] = {}
        self._new_keys: dict[str, None] = {}
        self._merged: list[tuple[str, str]] = []
        patients: dict[str, Patient] = {}
        currents: dict[str, Current] = {}
        for row in repository.find_patients(conn, hashes):
            ref = row["patient_patient_ref"]
            if ref not in patients:
                # two patients may share an incident, which is one in memory then
                current = repository.incident_in(row)
                shared = currents.setdefault(current.incident_ref, current) if current else None
                patients[ref] = Patient(ref, True, row["patient_indicator"], shared)
                if row["patient_seen_on"] != today:
                    self.touch(patients[ref])
            self._by_key[row["patient_key_key_hash"]] = patients[ref]
        self._stored = set(patients)

    def known(self, hashes: Sequence[str]) -> list[Patient]:
        """The patients these identifiers lead to, each once."""
        return list({id(one): one for one in (self._by_key.get(key) for key in hashes) if one}.values())

    def find_or_create(self, hashes: Sequence[str]) -> list[Patient]:
        """The same, a new one where there is none; identifiers not seen before now lead to the first."""
        patients = self.known(hashes) or [Patient(new_ref())]
        for key in hashes:
            if key not in self._by_key:
                self._by_key[key] = patients[0]
                self._new_keys[key] = None
                self.touch(patients[0])
        return patients

    def touch(self, patient: Patient) -> None:
        """Write this patient at the end."""
        self._changed[patient.patient_ref] = patient

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> list[Current]:
        """Move what is known of one patient to another (A40); gives the doubts that another incident stands for now."""
        patients = self.known([*surviving, *prior])
        if not patients:
            return []
        currents = {one.current.incident_ref: one.current for one in patients if one.current}
        kept = patients[0]
        for other in patients[1:]:
            kept.indicator = "Y" if "Y" in (kept.indicator, other.indicator) else kept.indicator or other.indicator
            kept.current = heavier(kept.current, other.current)
            self._merged.append((other.patient_ref, kept.patient_ref))
            self._changed.pop(other.patient_ref, None)
        moved = {id(other) for other in patients[1:]}
        for key, patient in self._by_key.items():
            if id(patient) in moved:
                self._by_key[key] = kept
        for key in (*surviving, *prior):
            self._by_key[key] = kept
            self._new_keys[key] = None
        self.touch(kept)
        return [one for one in currents.values() if one is not kept.current and one.state == "review"]

    def write(self, conn: Connection) -> None:
        """Store what changed: three statements a batch, and two more for every merge."""
        for given_up, kept in self._merged:
            repository.merge_patient(conn, given_up, kept)
        rows = [
            (ref, one.indicator, one.current.incident_ref if one.current else None, self._today)
            for ref, one in sorted(self._changed.items())
        ]
        repository.write_patients(
            conn,
            new=[row for row in rows if row[0] not in self._stored],
            changed=[row for row in rows if row[0] in self._stored],
            keys=[(key, self._by_key[key].patient_ref) for key in sorted(self._new_keys)],
        )
