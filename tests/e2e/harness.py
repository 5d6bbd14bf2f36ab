"""The system as its users meet it: `leeward up` as a process, a real SMTP server, a third party's MLLP client."""

import asyncio
import contextlib
import csv
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import httpx

from leeward.people import COLUMNS
from leeward.settings import SERVICES, ServiceName
from leeward.testing import MailServer, Received, ignore, wait_until
from services.demo.servers.server import Port
from tests import nursery

T = TypeVar("T")


class Mailbox(MailServer):
    """The hospital's mails, taken in a thread."""

    def __init__(self, came: Callable[[Received], object] = ignore) -> None:
        super().__init__(came)
        self._port = Port()
        self.start_thread(self._port.number)

    def to(self, address: str) -> list[EmailMessage]:
        """The mails for one address, each Message-ID once, oldest first."""
        return list({one.mail["Message-ID"]: one.mail for one in list(self.received) if one.to == address}.values())

    def message_ids(self) -> dict[str, set[str]]:
        """The Message-IDs each address got."""
        found: dict[str, set[str]] = defaultdict(set)
        for one in list(self.received):
            found[one.to].add(one.mail["Message-ID"])
        return found


def link_in(mail: EmailMessage) -> str:
    """The one link of a message."""
    links = re.findall(r"https?://\S+", mail.get_content())
    assert len(links) == 1, f"{len(links)} links in a message"
    return str(links[0])


@dataclass
class Member:
    """A roster row in the making; every column has a plain default."""

    staff_id: str
    unit: str = "ICU"
    profession: str = "nurse"
    supporter: bool = False
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.columns.get("email", f"{self.staff_id.lower()}@hospital.example")

    def row(self) -> dict[str, str]:
        training = {"training_completed": "2026-01-10", "training_expires": "2027-12-31"} if self.supporter else {}
        return {
            "staff_id": self.staff_id,
            "identifiers": f"ehr=E-{self.staff_id}",
            "display_name": f"Name{self.staff_id} Person",
            "profession": self.profession,
            "unit": self.unit,
            "languages": "en",
            "email": self.address,
            "mobile": "+44 20 7946 0000",
            "timezone": "UTC",
            "supporter": "yes" if self.supporter else "no",
            **training,
            **self.columns,
        }


def write_roster(path: Path, members: Sequence[Member]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(member.row() for member in members)


def death(
    control_id: str,
    *people: str,
    unit: str = "ICU",
    patient: str | None = None,
    at: str = "20261121085000",
    referring: str = "",
) -> str:
    """An ADT^A03 with PV1-36 = 20; the people are staff_ids of the roster, the first one attending."""
    doctors = [f"E-{person}^Doe^Jo^^^^^^EHR" for person in people]
    pv1 = [""] * 45
    pv1[2], pv1[3], pv1[7] = "I", f"{unit}^1^1", doctors[0] if doctors else ""
    pv1[8] = f"E-{referring}^Ref^Al^^^^^^EHR" if referring else ""
    pv1[9], pv1[17] = "~".join(doctors[1:]), ""
    pv1[19], pv1[36], pv1[45 - 1] = f"V{control_id}^^^HOSP^VN", "20", ""
    lines = (
        f"MSH|^~\\&|EHRSYS|HOSP|LW|HOSP|{at}||ADT^A03|{control_id}|P|2.5",
        f"EVN|A03|{at}",
        f"PID|1||{patient or 'P' + control_id}^^^HOSP^MR||Lastname^Firstname||19500101|F|||1 Street"
        + "|" * 18
        + f"{at}|Y",
        "PV1|" + "|".join(["1", *pv1[2:]]),
    )
    return "\r".join(lines) + "\r"


def cancelled(control_id: str, of: str) -> str:
    """An ADT^A13 of the stay and patient that `death(of)` was about."""
    lines = (
        f"MSH|^~\\&|EHRSYS|HOSP|LW|HOSP|20261121085500||ADT^A13|{control_id}|P|2.5",
        f"PID|1||P{of}^^^HOSP^MR",
        "PV1|1|I|ICU" + "|" * 16 + f"V{of}^^^HOSP^VN",
    )
    return "\r".join(lines) + "\r"


class Installation(ABC):
    """Leeward with a folder, a policy and a mailbox of its own, however many processes it is."""

    def __init__(self, folder: Path, mailbox: Mailbox, policy: str = "", **variables: str) -> None:
        self.folder = folder
        self.mailbox = mailbox
        (folder / "leeward.toml").write_text(policy)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LEEWARD_")},
            "LEEWARD_ENV": "test",
            "LEEWARD_CONFIG": str(folder / "leeward.toml"),
            "LEEWARD_SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}",
            "LEEWARD_MAIL_FROM": "messages@post.example",
            **variables,
        }
        self.http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))

    @property
    @abstractmethod
    def mllp_port(self) -> int:
        """Where it takes messages by MLLP."""

    @abstractmethod
    def url(self, service: ServiceName, path: str = "") -> str:
        """Where a service answers."""

    @abstractmethod
    def start(self) -> None:
        """Start every process and wait until all are ready."""

    @abstractmethod
    def kill(self) -> None:
        """`kill -9`, as a power cut would."""

    @abstractmethod
    def stop(self) -> int:
        """SIGTERM; gives the exit code, the worst one of several."""

    def restart(self, **variables: str) -> None:
        self.environment.update(variables)
        self.start()

    def close(self) -> None:
        """End all of it, whatever state it is in."""
        self.kill()
        self.http.close()

    def command_environment(self) -> dict[str, str]:
        """What a command of the operator's is given."""
        return self.environment

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `leeward …` and give what it printed."""
        done = nursery.run(words, self.command_environment())
        assert not check or done.returncode == 0, f"leeward {words[0]} ended with {done.returncode}: {done.stderr}"
        return done

    def import_roster(self, *members: Member) -> None:
        path = self.folder / "roster.csv"
        write_roster(path, members)
        self.command("staff", "import", str(path))

    def send(self, message: str) -> str:
        """Send by PyPI hl7's `mllp_send`, somebody else's client; gives what it printed."""
        file = self.folder / "message.hl7"
        file.write_text(message, newline="")
        words = ["--loose", "--file", str(file), "--port", str(self.mllp_port), "127.0.0.1"]
        sender = Path(sys.executable).with_name("mllp_send")
        done = subprocess.run([sender, *words], capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def token(self, role: str = "coordinator") -> str:
        return self.command("token", "create", role).stdout.split()[-1]

    def get(self, service: ServiceName, path: str, token: str) -> Any:
        return self._got(service, path, token).json()

    def page(self, service: ServiceName, path: str, token: str) -> str:
        return self._got(service, path, token).text

    def _got(self, service: ServiceName, path: str, token: str) -> httpx.Response:
        answer = self.http.get(self.url(service, path), headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer

    def cases(self, token: str) -> list[dict[str, Any]]:
        found = self.get("matching", "/v1/cases", token)["items"]
        assert isinstance(found, list)
        return found


class Running:
    """One process of ours, its output in a file."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = nursery.Process(words, environment, stdout=file, stderr=file)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ready(self, http: httpx.Client, *urls: str) -> bool:
        """Whether each of these says that it is ready; fails when the process has ended."""
        assert self.alive, f"{self.log.name}: {self.log.read_text()[-2000:]}"
        try:
            return all(http.get(f"{url}/readyz").status_code == 200 for url in urls)
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.close()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.terminate()
        return self.process.wait(30)


class System(Installation):
    """One `leeward up`; can be killed and started again."""

    def __init__(self, folder: Path, mailbox: Mailbox, policy: str = "", **variables: str) -> None:
        self._ports = {name: Port() for name in (*SERVICES, "mllp")}
        self._running: Running | None = None
        ports = {f"LEEWARD_{name.upper()}_PORT": str(port.number) for name, port in self._ports.items()}
        super().__init__(folder, mailbox, policy, LEEWARD_DATA=str(folder / "data"), **ports, **variables)

    @property
    def mllp_port(self) -> int:
        return self._ports["mllp"].number

    def url(self, service: ServiceName, path: str = "") -> str:
        return f"http://127.0.0.1:{self._ports[service].number}{path}"

    def start(self) -> None:
        running = self._running = Running(["up"], self.environment, self.folder / "log")
        wait_until(lambda: running.ready(self.http, *map(self.url, SERVICES)), 60)

    def kill(self) -> None:
        if self._running:
            self._running.kill()

    def stop(self) -> int:
        assert self._running
        return self._running.stop()


class AckReader:
    """A plain MLLP connection that counts what was acknowledged, whatever breaks."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def deliver(self, message: str) -> bool:
        """Send one message; True once it is acknowledged with AA, False when the connection breaks first."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        try:
            writer.write(b"\x0b" + message.encode() + b"\x1c\r")
            answer = await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 5)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return b"MSA|AA|" in answer


LIVE = '[outreach]\nmode = "live"\nquiet_hours = ""\njitter = "0s"\n'
