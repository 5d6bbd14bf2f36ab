"""After a restore: what was erased since the copy was made is erased again, and what is too old ends."""

from leeward.service import Restored
from leeward.store import Unit
from leeward.store.retention import delete_all
from services.matching.cases import repository
from services.matching.cases.session import CaseSession
from services.matching.inputs import hourly, retention
from services.matching.lifecycle import transitions
from services.matching.roster import queries
from services.matching.roster.people import renew_version
from services.matching.site import site_of


def bring_to_present(unit: Unit, restored: Restored) -> None:
    """Erase what the list of erasures names, tell the other services what that was, and run retention."""
    site = site_of(restored.settings, restored.keys)
    before = CaseSession(unit, site).people
    left = [
        colleague
        for ref, colleague in before.known.items()
        if colleague.here and site.erasure_hash("person", ref) in restored.erased
    ]
    restored.persons.extend(colleague.person_ref for colleague in left)
    restored.recipients.extend(colleague.recipient_ref for colleague in left)
    if left:
        queries.set_left(unit.conn, restored.persons)
        renew_version(unit)
    session = CaseSession(unit, site)
    for case in session.fetch(repository.names_somebody()):
        if site.erasure_hash("case", case.case_ref) in restored.erased:
            session.apply(transitions.gone(case, unit.now))
            restored.cases.append(case.case_ref)
    session.write()
    for person_ref in restored.persons:
        unit.set_timer("departed", person_ref, unit.now)
    hourly.advance_cases(unit, site)
    delete_all(unit, *retention.parts())
