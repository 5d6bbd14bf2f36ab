"""The baseline: the same path as one would write it first — one ORM transaction an event, one httpx client.

Run as `python -m tests.bench.naive MLLP_PORT WEBHOOK_URL STAFF SUPPORTERS DATABASE_URL [KAFKA_URL]`; prints `ready`
once it listens. Without Kafka the hops are queues in memory.
"""

import asyncio
import random
import sys
from typing import Any, Protocol
from uuid import uuid4

import hl7
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
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


class Hop(Protocol):
    """From one step to the next; carries a reference."""

    async def put(self, ref: str) -> None: ...
    async def get(self) -> str: ...


class Topic:
    """One `send_and_wait` an event, one commit of the offset an event."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, name: str) -> None:
        self._producer = producer
        self._consumer = consumer
        self._name = name

    @classmethod
    async def open(cls, servers: str, name: str) -> "Topic":
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, 1, 1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
        options: Any = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
        consumer = AIOKafkaConsumer(name, bootstrap_servers=servers, group_id=name, **options)
        await producer.start()
        await consumer.start()
        return cls(producer, consumer, name)

    async def put(self, ref: str) -> None:
        await self._producer.send_and_wait(self._name, ref.encode())

    async def get(self) -> str:
        record = await self._consumer.getone()
        await self._consumer.commit()
        return str(record.value.decode())


class Naive:
    """Three hops, each with its own transaction."""

    def __init__(self, engine: AsyncEngine, url: str, incidents: Hop, cases: Hop) -> None:
        self._engine = engine
        self._url = url
        self._client = httpx.AsyncClient()
        self._incidents = incidents
        self._cases = cases

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
            await self._incidents.put(incident.ref)

    async def match(self) -> None:
        while True:
            ref = await self._incidents.get()
            async with self.session() as session:
                incident = (await session.exec(select(Incident).where(Incident.ref == ref))).one()
                supporters = (await session.exec(select(Staff).where(Staff.supporter).limit(50))).all()
                case = Case(
                    ref=str(uuid4()),
                    incident_ref=incident.ref,
                    person=incident.clinician,
                    supporter=random.choice(supporters).clinician,
                )
                session.add(case)
                await session.commit()
            await self._cases.put(case.ref)

    async def notify(self) -> None:
        while True:
            ref = await self._cases.get()
            async with self.session() as session:
                case = (await session.exec(select(Case).where(Case.ref == ref))).one()
                member = (await session.exec(select(Staff).where(Staff.clinician == case.person))).one()
                message = Message(ref=str(uuid4()), case_ref=case.ref, address=member.address, state="sending")
                session.add(message)
                await session.commit()
            await self._client.post(self._url, json={"to": {"email": message.address}, "id": message.ref})
            async with self.session() as session:
                message.state = "handed_off"
                session.add(message)
                await session.commit()


def prepare(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


async def hops(kafka: str) -> tuple[Hop, Hop]:
    if not kafka:
        return asyncio.Queue[str](), asyncio.Queue[str]()
    servers = kafka.removeprefix("kafka://")
    return await Topic.open(servers, "naive-incidents"), await Topic.open(servers, "naive-cases")


async def main(port: int, url: str, staff: int, supporters: int, database: str, kafka: str = "") -> None:
    engine = create_async_engine(database)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", prepare)
    async with engine.begin() as conn:
        await conn.run_sync(SQLModel.metadata.create_all)
    naive = Naive(engine, url, *await hops(kafka))
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
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
