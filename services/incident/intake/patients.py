"""What one batch of messages needs to know of its patients: read in one query, changed in memory, written in bulk."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import LABEL_STYLE_TABLENAME_PLUS_COL, Connection, delete, select, update

from leeward.refs import new_ref
from leeward.store import Insert, Update
from leeward.store.lookup import in_list, rows_of
from services.incident.decisions.claims import Current, Patient, current_of
from services.incident.models import IncidentRow, PatientKey, PatientRow, table_of

_INCIDENT: Final = table_of(IncidentRow)
_PATIENT: Final = table_of(PatientRow)
_KEY: Final = table_of(PatientKey)
_FIND: Final = (
    select(_KEY.c.key_hash, _PATIENT, _INCIDENT)
    .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
    .join(_PATIENT, _PATIENT.c.patient_ref == _KEY.c.patient_ref)
    .outerjoin(_INCIDENT, _INCIDENT.c.incident_ref == _PATIENT.c.incident_ref)
    .where(in_list(_KEY.c.key_hash))
)
_COLUMNS: Final = ("indicator", "incident_ref", "seen_on")
_NEW: Final = Insert(_PATIENT, ("patient_ref", *_COLUMNS))
# never an insertion: a patient whom another replica has merged into somebody else must not come back
_CHANGE: Final = Update(_PATIENT, ("patient_ref",), _COLUMNS)
_KEYS: Final = Insert(_KEY, ("key_hash", "patient_ref"), conflict="replace", keys=("key_hash",))
_INCIDENT_COLUMNS: Final = tuple(column.name for column in _INCIDENT.columns)
_WEIGHT: Final = ("retracted", "dismissed", "review", "recorded")


class Book:
    """The patients of one batch by keyed hash."""

    def __init__(self, conn: Connection, today: date, hashes: Iterable[str]) -> None:
        self._today = today
        self._by_key: dict[str, Patient] = {}
        self._stored: set[str] = set()
        self._changed: dict[str, Patient] = {}
        self._new_keys: dict[str, None] = {}
        self._moves: list[tuple[str, str]] = []
        self._load(conn, hashes)

    def _load(self, conn: Connection, hashes: Iterable[str]) -> None:
        patients: dict[str, Patient] = {}
        currents: dict[str, Current] = {}
        for row in (found._mapping for found in rows_of(conn, _FIND, hashes)):
            ref = row["patient_patient_ref"]
            if ref not in patients:
                patients[ref] = Patient(ref, True, row["patient_indicator"], _current(row, currents))
                if row["patient_seen_on"] != self._today:
                    self.touch(patients[ref])
            self._by_key[row["patient_key_key_hash"]] = patients[ref]
        self._stored.update(patients)

    def known(self, hashes: Sequence[str]) -> list[Patient]:
        """The patients these identifiers lead to, each once."""
        return list({id(one): one for one in (self._by_key.get(key) for key in hashes) if one}.values())

    def found(self, hashes: Sequence[str]) -> list[Patient]:
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
            self._moves.append((other.patient_ref, kept.patient_ref))
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
        for gone, kept in self._moves:
            conn.execute(update(_KEY).where(_KEY.c.patient_ref == gone).values(patient_ref=kept))
            conn.execute(delete(_PATIENT).where(_PATIENT.c.patient_ref == gone))
        rows = [self._row(one) for _, one in sorted(self._changed.items())]
        _NEW.run(conn, [row for row in rows if row[0] not in self._stored])
        _CHANGE.run(conn, [row for row in rows if row[0] in self._stored])
        _KEYS.run(conn, [(key, self._by_key[key].patient_ref) for key in sorted(self._new_keys)])

    def _row(self, one: Patient) -> tuple[Any, ...]:
        return (one.patient_ref, one.indicator, one.current.incident_ref if one.current else None, self._today)


def combine(patients: Sequence[Patient]) -> Patient:
    """One view of the patients a message's identifiers lead to; nearly always there is one."""
    if len(patients) == 1:
        return patients[0]
    view = Patient(patients[0].patient_ref, any(one.known for one in patients))
    for one in patients:
        view.indicator = "Y" if "Y" in (view.indicator, one.indicator) else view.indicator or one.indicator
        view.current = heavier(view.current, one.current)
    return view


def heavier(one: Current | None, other: Current | None) -> Current | None:
    """Of two incidents of a patient the one that decides: a recorded one before a doubt, before one that is over."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: (_WEIGHT.index(each.state), each.certain))


def _current(row: Any, known: dict[str, Current]) -> Current | None:
    ref = row["incident_incident_ref"]
    if ref is None:
        return None
    if ref not in known:
        known[ref] = current_of({name: row[f"incident_{name}"] for name in _INCIDENT_COLUMNS})
    return known[ref]
