"""The evidence of a run, looked up by what the promises ask for."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from tests.chaos import hospital
from tests.chaos.evidence import Evidence
from tests.chaos.outside import Arrival
from tests.chaos.people import Given

Row = dict[str, Any]
SAID: Final = frozenset({"taken", "in_doubt"})
# answers of a person or a supporter after which another supporter is asked
CALLS_FOR_ONE: Final = ("accept", "another", "not_contacted", "pass", "hand_over")


class Books:
    """A run's evidence with indexes."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.rest = evidence.at_rest

    @cached_property
    def deliveries(self) -> dict[str, Row]:
        return {row["key"]: row for row in self.rest.rows("notify", "delivery")}

    @cached_property
    def recipients(self) -> dict[str, str]:
        """recipient_ref by contact."""
        rows = self.rest.rows("notify", "recipient")
        return {row["email"] or row["mobile"]: row["recipient_ref"] for row in rows}

    @cached_property
    def persons(self) -> dict[str, str]:
        """person_ref by contact."""
        by_recipient = {row["recipient_ref"]: row["person_ref"] for row in self.rest.rows("matching", "person")}
        return {contact: by_recipient[ref] for contact, ref in self.recipients.items() if ref in by_recipient}

    @cached_property
    def cases(self) -> dict[str, Row]:
        return {row["case_ref"]: row for row in self.rest.rows("matching", "support_case")}

    @cached_property
    def cases_of(self) -> dict[str, list[Row]]:
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.cases.values():
            if row["person_ref"]:
                found[row["person_ref"]].append(row)
        return found

    @cached_property
    def came_to(self) -> dict[str, list[Arrival]]:
        found: defaultdict[str, list[Arrival]] = defaultdict(list)
        for arrival in self.evidence.arrivals:
            found[arrival.to].append(arrival)
        return found

    def step(self, arrival: Arrival) -> str:
        """The step of a message, "" for what is none (a code, a link asked for anew)."""
        row = self.deliveries.get(arrival.key)
        return str(row["step"]) if row and row["kind"] == "message" else ""

    def whose(self, case_ref: str) -> str:
        """The contact whose case it is, by what lies at rest or by what reached them; else the case itself."""
        person = self.cases[case_ref]["person_ref"] if case_ref in self.cases else None
        told = (one for contact in self.persons for one in self.offers(contact))
        by_offer = (one.to for one in told if self.deliveries[one.key]["case_ref"] == case_ref)
        return next((contact for contact, ref in self.persons.items() if ref == person), next(by_offer, case_ref))

    def offers(self, contact: str) -> list[Arrival]:
        """What arrived to offer somebody to them, reminders apart."""
        return [one for one in self.came_to.get(contact, ()) if self.step(one).startswith(("offer", "asked"))]

    def reached(self, contact: str, deaths: Sequence[int]) -> bool:
        """Whether somebody has been offered somebody for one of these deaths, or had asked by themselves.

        A case that is forgotten names no incident any more: it counts where it was not taken back.
        """
        incidents = set().union(*(self.incidents_of[number] for number in deaths))
        for one in self.offers(contact):
            case = self.cases.get(self.deliveries[one.key]["case_ref"])
            if case is None or self.step(one).startswith("asked") or case["incident_ref"] in incidents:
                return True
            if case["incident_ref"] is None and "retracted" not in case["notes"]:
                return True
        return False

    @cached_property
    def incidents_of(self) -> dict[int, set[str]]:
        """incident_ref by a death's number: those at which nobody else was, taken back or not alike.

        Those who have been forgotten are missing at an incident, and whoever has left has no contact any more, so that
        two may fit.
        """
        known = set(self.persons.values())
        there: defaultdict[str, set[str]] = defaultdict(set)
        for row in self.rest.rows("matching", "exposure"):
            if not row["reviewer"]:
                there[row["incident_ref"]].add(row["who"])
        stands = {row["incident_ref"] for row in self.rest.rows("matching", "incident") if not row["retracted"]}
        found, contacts = {}, hospital.contacts()
        for death in self.evidence.plan.deaths:
            around = {self.persons.get(contacts[who], "") for who in death.around}
            alike = {ref for ref in there if (ref in stands) == (death.number not in self.evidence.retracted)}
            found[death.number] = {ref for ref in alike if there[ref] & known <= around}
        return found

    def attention(self, contact: str) -> str | None:
        """Why somebody's case stands on the coordinator's list."""
        cases = self.cases_of.get(self.persons[contact], [])
        return next((row["attention"] for row in cases if row["attention"]), None)

    @cached_property
    def taken_back(self) -> Counter[str]:
        """How often an outcome that a contact was around was taken back; an offer may have left just before."""
        contacts, plan = hospital.contacts(), self.evidence.plan
        gone = [death for death in plan.deaths if death.retracted_after is not None]
        return Counter(contacts[who] for death in gone for who in death.around)

    @cached_property
    def ended(self) -> set[str]:
        """Requests to supporters that were over before they were answered: the person had asked for somebody else."""
        rows = self.rest.rows("matching", "request")
        return {row["request_ref"] for row in rows if row["ended"] and row["template"] == "supporter_request"}

    @cached_property
    def answered(self) -> set[str]:
        """Cases in which somebody has answered something."""
        given = (self.deliveries.get(one.key) for one in self.evidence.given if one.fate in SAID)
        return {row["case_ref"] for row in given if row}

    def given(self, *answers: str) -> list[Given]:
        return [one for one in self.evidence.given if one.answer in answers and one.fate in SAID]
