"""Reads from FHIR servers what notifications have left to be read, after their 204 was sent."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import httpx

from leeward import telemetry
from leeward.clock import first_of
from leeward.service import Context
from leeward.store import StoreUnavailable, Unit
from services.incident.decisions.claims import CodedSeverity, Evidence, Report
from services.incident.hashing import Hasher, hash_signal
from services.incident.intake import repository
from services.incident.intake.fetch_queue import FetchRequest
from services.incident.intake.intake import Intake, Item
from services.incident.sealing import DayKeys
from services.incident.sources.fhir.client import FhirServer, NotRead, private_key
from services.incident.sources.fhir.notification import referenced
from services.incident.sources.fhir.references import Resources, references
from services.incident.sources.fhir.resources import list_mattering, read_each, read_resources
from services.incident.sources.fhir.tree import NOTHING, JsonError, Node

AT_ONCE: Final = 50
LANES: Final = 8
LOOK: Final = 1.0
RELATED: Final = 200  # of one reading
PAGES: Final = 50
BACK_OFF: Final = (5, 15, 60, 300, 600)  # seconds


@dataclass(frozen=True, slots=True)
class FetchJob:
    """Rows that one reading settles; `wanted` is None where their day's key is gone."""

    refs: tuple[str, ...]
    source: str
    wanted: FetchRequest | None
    made_at: datetime


def fetchers(context: Context, intake: Intake) -> list["Fetcher"]:
    """One for each source whose server is known."""
    sources = context.settings.sources.items()
    return [Fetcher(context, intake, name) for name, one in sources if one.kind == "fhir" and one.base_url]


class Fetcher:
    """Reads what is queued for one source, on one replica at a time, from its own base URL alone.

    Each source has one, so that a server that does not answer holds up no other.
    """

    def __init__(self, context: Context, intake: Intake, source: str) -> None:
        self._source = source
        self._lock = f"fetch {source}"
        self._context = context
        self._store = context.store
        self._intake = intake
        self._hasher = Hasher.of(context.keys)
        self._keys = DayKeys(context.keys)
        self._lanes = asyncio.Semaphore(LANES)
        rules = context.settings.sources[source]
        self._server = FhirServer(source, rules, private_key(context.settings, source), context.http)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set."""
        while not stop.is_set():
            busy = False
            self._intake.left.clear()
            try:
                if await self._store.hold(self._lock):
                    busy = await self.read_due()
            except StoreUnavailable as fault:
                telemetry.log("store_away", service="incident", fault=type(fault).__name__)
            if not busy:
                await first_of(stop.wait(), self._intake.left.wait(), asyncio.sleep(LOOK))
        await self._store.release(self._lock)

    async def read_due(self) -> bool:
        """Read what is due; False where nothing is."""
        jobs = await self._store.write(self._claim)
        await asyncio.gather(*(self._do(job) for job in jobs))
        return bool(jobs)

    def _claim(self, unit: Unit) -> list[FetchJob]:
        """What is due, put off first, so that what kills this process is not read again at once."""
        jobs: dict[tuple[str, ...], FetchJob] = {}
        rows = repository.find_due_fetches(unit.conn, self._source, unit.now, AT_ONCE)
        waits = [timedelta(seconds=BACK_OFF[min(row.attempts, len(BACK_OFF) - 1)]) for row in rows]
        put_off = [(row.fetch_ref, row.attempts + 1, unit.now + wait) for row, wait in zip(rows, waits, strict=True)]
        repository.put_off_fetches(unit.conn, put_off)
        for row in rows:
            box = self._keys.open(unit.conn, row.key_ref)
            opened = json.loads(box.open(row.sealed, row.fetch_ref)) if box else None
            wanted = FetchRequest(row.source, *opened) if opened else None
            what = ("?", "") if wanted is None else (wanted.path and "one", wanted.path)
            before = jobs.get((row.source, *what))
            # one search answers for all, from the earliest time on
            first = before.wanted if before and before.wanted else wanted
            since = min(one.since for one in (first, wanted) if one) if wanted else ""
            joined = FetchRequest(row.source, wanted.path, since) if wanted else None
            refs = (*(before.refs if before else ()), row.fetch_ref)
            jobs[row.source, *what] = FetchJob(refs, row.source, joined, row.made_at)
        return list(jobs.values())

    async def _do(self, job: FetchJob) -> None:
        async with self._lanes:
            try:
                item = await self._read(job, job.wanted) if job.wanted else self._given_up(job)
                await self._intake(item)
                result = "read" if item.fetched else "partly"
            except NotRead as fault:
                result = fault.reason
                if fault.deleted:
                    await self._store.write(lambda unit: repository.delete_fetches(unit.conn, job.refs))
                elif fault.gone:
                    # it was told of, so perhaps it is the base_url that is wrong
                    await self._intake(self._given_up(job))
                telemetry.log("fhir_not_read", source=job.source, reason=fault.reason)
            except JsonError as fault:
                result = fault.reason
                await self._intake(self._given_up(job))
            telemetry.FHIR_FETCHES.labels(job.source, result if job.wanted else "too_late").inc()

    async def _read(self, job: FetchJob, wanted: FetchRequest) -> Item:
        """What was read. It is read again where something of it could not be had for now: the rest does not wait."""
        reading = FhirReading(self._server)
        found = [await reading.read_resource(wanted.path)] if wanted.path else await reading.read_changed(wanted.since)
        about = list_mattering(read_each(self._resources(job.source, found)))
        found = [*found, *(await reading.read_around(about, found) if about else [])]
        if reading.late:
            telemetry.log("fhir_not_read", source=job.source, reason=reading.late[0], count=len(reading.late))
        raw = json.dumps(
            {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one.value} for one in found]}
        ).encode()
        said = read_resources(self._resources(job.source, found, more_comes=bool(reading.late)))
        signals = tuple(hash_signal(one, self._hasher) for one in said)
        ref = job.refs[0].encode()
        names = (b"partly", ref, raw) if reading.late else (b"fetched", ref)
        fetched = () if reading.late else job.refs
        return Item(job.source, raw, self._hasher.of_message(*names), signals, fetched=fetched)

    def _given_up(self, job: FetchJob) -> Item:
        """What can never be read is the coordinator's to look after, once a day and source."""
        report = Report(
            source=job.source,
            source_ref=f"not fetched {job.made_at.date().isoformat()}",
            category="not_fetched",
            severity=CodedSeverity("leeward", "unknown", "unknown"),
            occurred_at=job.made_at,
            unit="",
            urgency="routine",
            patient=(),
            mentions=(),
            ruled=Evidence("not_fetched", False),
        )
        fingerprint = self._hasher.of_message(b"not fetched", job.refs[0].encode())
        return Item(job.source, b"", fingerprint, (hash_signal(report, self._hasher),), fetched=job.refs)

    def _resources(self, source: str, found: Sequence[Node], *, more_comes: bool = False) -> Resources:
        rules = self._context.settings.sources[source]
        return Resources(source, rules, self._context.clock.now(), found, more_comes=more_comes)


class FhirReading:
    """What one server is asked for at one time."""

    def __init__(self, server: FhirServer) -> None:
        self._server = server
        self._lanes = asyncio.Semaphore(LANES)
        self.late: list[str] = []  # why things could not be had for now

    async def read_resource(self, path: str) -> Node:
        """A resource by its path.

        Raises:
            NotRead: it could not be read, or is of another type.
        """
        return _of_type(path.partition("/")[0], await self._server.get(path))

    async def read_changed(self, since: str) -> list[Node]:
        """Whatever has changed; of types that the server does not give, nothing.

        Raises:
            NotRead: it gives none of them.
        """
        found: list[Node] = []
        faults: list[NotRead] = []
        for kind in self._server.source.search:
            try:
                found += await self._every_page(kind, since)
            except NotRead as fault:
                faults.append(fault)
                self._note(fault)
        if faults and len(faults) == len(self._server.source.search):
            raise NotRead(faults[0].reason)
        return found

    async def _every_page(self, kind: str, since: str) -> list[Node]:
        found: list[Node] = []
        path = kind
        params: dict[str, str] | None = {"_lastUpdated": f"ge{since}", "_count": "200"}
        for _ in range(PAGES):
            page = _of_type("Bundle", await self._server.get(path, params))
            found += [one for one in referenced(page) if one.kind == kind]
            following = [one.text("url") for one in page.children("link") if one.text("relation") == "next"]
            if not following:
                return found
            path, params = _below(self._server.base, following[0]), None
            if not path:
                break
        telemetry.log("fhir_not_read", source=self._server.name, reason="further_pages")
        return found

    async def read_around(self, about: Sequence[Node], found: Sequence[Node]) -> list[Node]:
        """Patient, people, places and care teams of what matters: two steps of references, as far as they are given."""
        here = {f"{one.kind}/{one.text('id')}" for one in found}
        more: list[Node] = []
        for encounter in (one for one in about if one.kind == "Encounter"):
            teams = await self._or_nothing("CareTeam", {"encounter": f"Encounter/{encounter.text('id')}"})
            more += [one for one in referenced(teams) if one.kind == "CareTeam"]
        here |= {f"CareTeam/{one.text('id')}" for one in more}
        step: Sequence[Node] = [*about, *more]
        for _ in range(2):
            wanted = [one for one in dict.fromkeys(references(step, self._server.base)) if one not in here]
            wanted = wanted[: max(0, RELATED - len(more))]
            here |= set(wanted)
            step = [one for one in await asyncio.gather(*map(self._or_nothing, wanted)) if one]
            more += step
        return more

    async def _or_nothing(self, path: str, params: Mapping[str, str] | None = None) -> Node:
        """What may be read, and is done without where it may not; of a server that fails and fails, nothing more."""
        async with self._lanes:
            try:
                return NOTHING if len(self.late) >= LANES else await self._server.get(path, params)
            except NotRead as fault:
                self._note(fault)
                return NOTHING

    def _note(self, fault: NotRead) -> None:
        if not (fault.gone or fault.refused):
            self.late.append(fault.reason)


def _of_type(kind: str, found: Node) -> Node:
    if found.kind != kind:
        raise NotRead("other_type")
    return found


def _below(base: str, following: str) -> str:
    """What follows upon a server's base in the address of a search's next page; "" for one that leads elsewhere."""
    try:
        own = httpx.URL(base)
        url = httpx.URL(f"{base}/").join(following)
    except (httpx.InvalidURL, ValueError):
        return ""
    rest = str(url).removeprefix(str(own))
    return rest if rest != str(url) and rest.startswith(("/", "?")) and ".." not in url.path.split("/") else ""
