"""The baseline: the same path as one would write it first — one ORM transaction an event, one httpx client.

Run as `python -m tests.bench.naive DATA_FOLDER MLLP_PORT WEBHOOK_URL STAFF SUPPORTERS`; prints `ready` once it listens.
"""

import asyncio
import random
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import hl7
import httpx
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tests.bench.hospital import address


class Incident(SQLModel, table=True):
    ref: str = Field(primary_key=True)
    patient: str
    clinician: str


class Case(SQLModel, table=True):
    ref: str = Field(primary_key=True)
    incident_ref: str
    person: str = Field(index=True)
    supporter: str


class Message(SQLModel, table=True):
    ref: str = Field(primary_key=True)
    case_ref: str
    address: str
    state: str


class Staff(SQLModel, table=True):
    clinician: str = Field(primary_key=True)
    address: str
    supporter: bool


class Naive:
    """Three hops through in-memory queues, each with its own transaction."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine = engine
        self._url = url
        self._client = httpx.AsyncClient()
        self._incidents: asyncio.Queue[Incident] = asyncio.Queue()
        self._cases: asyncio.Queue[Case] = asyncio.Queue()

    def session(self) -> AsyncSession:
        return AsyncSession(self._engine, expire_on_commit=False)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                frame = await reader.readuntil(b"\x1c\r")
            except asyncio.IncompleteReadError:
                break
            message = hl7.parse(frame[1:-2].decode())
            incident = Incident(
                ref=str(uuid4()), patient=str(message["PID.F3.R1.C1"]), clinician=str(message["PV1.F7.R1.C1"])
            )
            async with self.session() as session:
                session.add(incident)
                await session.commit()
            writer.write(b"\x0b" + str(message.create_ack("AA")).encode() + b"\x1c\r")
            self._incidents.put_nowait(incident)

    async def match(self) -> None:
        while True:
            incident = await self._incidents.get()
            async with self.session() as session:
                supporters = (await session.exec(select(Staff).where(Staff.supporter).limit(50))).all()
                case = Case(
                    ref=str(uuid4()),
                    incident_ref=incident.ref,
                    person=incident.clinician,
                    supporter=random.choice(supporters).clinician,
                )
                session.add(case)
                await session.commit()
            self._cases.put_nowait(case)

    async def notify(self) -> None:
        while True:
            case = await self._cases.get()
            async with self.session() as session:
                member = (await session.exec(select(Staff).where(Staff.clinician == case.person))).one()
                message = Message(ref=str(uuid4()), case_ref=case.ref, address=member.address, state="sending")
                session.add(message)
                await session.commit()
            await self._client.post(self._url, json={"to": {"email": message.address}, "id": message.ref})
            async with self.session() as session:
                message.state = "handed_off"
                session.add(message)
                await session.commit()


async def main(folder: Path, port: int, url: str, staff: int, supporters: int) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'naive.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    async with engine.begin() as conn:
        await conn.run_sync(SQLModel.metadata.create_all)
    naive = Naive(engine, url)
    async with naive.session() as session:
        session.add_all(
            Staff(clinician=f"E{n:06}", address=address(n), supporter=n >= staff) for n in range(staff + supporters)
        )
        await session.commit()
    server = await asyncio.start_server(naive.connection, "127.0.0.1", port)
    print("ready", flush=True)
    async with server, asyncio.TaskGroup() as group:
        group.create_task(naive.match())
        group.create_task(naive.notify())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
