"""`rota import`: who is on shift where, written for matching alone."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from leeward.people import person_ref
from leeward.settings import Settings, load_settings
from services.commands import catalogue, queries
from services.commands.console import Failed, say, show_json, step
from services.commands.databases import prepare, transaction, with_databases
from services.commands.people.keys import usable_people_key


def import_file(file: Path, *, as_json: bool) -> None:
    """Import a rota and say how many shifts there are."""
    settings = load_settings(starting=False)
    try:
        content = file.read_bytes()
    except OSError as fault:
        raise Failed(f"{file.name}: cannot be read ({fault.strerror})") from None
    count = import_shifts(settings, content, file.name, settings.clock().now())
    if as_json:
        show_json({"shifts": count})
    else:
        say(f"{count} shifts")


@with_databases
def import_shifts(settings: Settings, content: bytes, name: str, now: datetime) -> int:
    """Replace the rota of the units in a file; gives how many shifts there are.

    Raises:
        Failed: with one line a fault; nothing of the file was applied then.
        SettingsError: where the people key is missing, or another than the roster was imported with.
    """
    from services.matching.roster.rota import RotaError, apply_shifts, import_ics

    services = catalogue.load(("matching", "notify"))
    prepare(settings, services)
    key = usable_people_key(settings, services)
    with ExitStack() as stack:
        matching, notify = (stack.enter_context(transaction(settings, one, now)) for one in services)
        persons = queries.rows_of(matching.conn, services[0].metadata, "person")
        recipients = queries.rows_of(notify.conn, services[1].metadata, "recipient")
        known = {row.recipient_ref: row.person_ref for row in persons}
        mails = {row.email.lower(): known.get(row.recipient_ref) for row in recipients}
        people = frozenset(known.values())

        def by_staff_id(staff_id: str) -> str | None:
            ref = person_ref(key, staff_id)
            return ref if ref in people else None

        step("reading the rota")
        try:
            shifts = import_ics(content, by_staff_id, mails.get, now)
        except RotaError as fault:
            lines = [str(one) for one in fault.faults[:200]]
            raise Failed("\n".join([*lines, f"{name}: nothing of it was imported"])) from None
        step(f"writing {len(shifts)} shifts")
        return apply_shifts(matching, shifts)
