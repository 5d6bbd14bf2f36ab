"""`leeward doctor`: what is missing is a line with what to do, and a site that has it all hears nothing of it."""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from leeward.testing import MailServer
from tests.certificates import Authority
from tests.services.commands.conftest import Leeward, free_port

POLICY = """
[outreach]
mode = "live"
[emergency.en]
phone = "112"
[[crisis_lines.en]]
label = "Line"
phone = "1"
checked_on = {checked_on}
[[on_call]]
label = "Duty"
phone = "2"
email = "duty@h.example"
[[referrals.en]]
label = "Staff health"
phone = "3"
[[concerns]]
label = "Council"
url = "https://c.example/"
"""
NOW = "2026-11-21T12:00:00Z"


def findings(leeward: Leeward, **variables: str) -> tuple[int, dict[str, str]]:
    done = leeward("doctor", "--json", **{"LEEWARD_CLOCK": NOW, **variables})
    return done.returncode, {one["what"]: one["level"] for one in json.loads(done.stdout)}


@pytest.fixture
def smtp_port() -> Iterator[int]:
    server = MailServer()
    server.start_thread(free_port())
    yield server.port
    server.stop_thread()


def test_an_empty_site_hears_what_is_missing_and_what_to_do(leeward: Leeward) -> None:
    code, found = findings(leeward)
    assert code == 1
    assert found["emergency.en is missing"] == "error"
    assert found["crisis_lines.en is missing"] == "error"
    assert found["there is no channel"] == "error"
    assert found["on_call is empty"] == "warning"
    assert found["sources.safety has no secret"] == "warning"
    assert found["there is no database yet"] == "warning"
    lines = leeward("doctor", LEEWARD_CLOCK=NOW).stdout.splitlines()
    assert all(line.startswith(("error: ", "warning: ")) and "; " in line for line in lines)


def test_a_mail_server_is_really_connected_to(leeward: Leeward, tmp_path: Path, smtp_port: int) -> None:
    (tmp_path / "leeward.toml").write_text(POLICY.format(checked_on="2026-11-02"))
    code, found = findings(leeward, LEEWARD_SMTP_URL=f"smtp://127.0.0.1:{smtp_port}")
    assert (code, [what for what, level in found.items() if level == "error"]) == (0, [])

    code, found = findings(leeward, LEEWARD_SMTP_URL="smtp://user:hidden@127.0.0.1:9")
    assert code == 1
    (fault,) = [what for what, level in found.items() if level == "error"]
    assert fault.startswith("LEEWARD_SMTP_URL: cannot be reached")
    assert "hidden" not in fault


def test_a_language_without_texts_is_an_error(leeward: Leeward, tmp_path: Path) -> None:
    (tmp_path / "leeward.toml").write_text('[channels.email]\nlocales = ["en", "de"]\n')
    code, found = findings(leeward)
    assert code == 1
    assert [level for what, level in found.items() if "locales: de: incident has no text review.heading" in what] == [
        "error"
    ]


def test_lines_that_nobody_checked_for_a_year_are_a_warning(leeward: Leeward, tmp_path: Path, smtp_port: int) -> None:
    smtp = {"LEEWARD_SMTP_URL": f"smtp://127.0.0.1:{smtp_port}"}
    (tmp_path / "leeward.toml").write_text(POLICY.format(checked_on="2025-11-20"))
    assert findings(leeward, **smtp)[1]["crisis_lines.en, number 1 was not checked for a year"] == "warning"
    (tmp_path / "leeward.toml").write_text(POLICY.format(checked_on="2025-11-22"))
    assert not [what for what in findings(leeward, **smtp)[1] if "crisis_lines" in what]


def test_gaps_of_the_roster_and_keys_that_others_could_read(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    roster.write_text(roster.read_text().replace("2027-12-01", "2026-12-01").replace("cy@h.example", ""))
    assert leeward("staff", "import", roster, LEEWARD_CLOCK=NOW).returncode == 0
    key = tmp_path / "data" / "keys" / "people.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not [what for what in findings(leeward)[1] if what.startswith("keys/")]
    os.chmod(key, 0o644)
    _, found = findings(leeward)
    assert found["keys/people.key can be read by others"] == "error"
    assert found["1 supporters' training ends soon"] == "warning"
    assert found["1 people have no channel"] == "warning"
    assert found["no shift in the next two days"] == "warning"


def test_links_that_leave_the_machine_need_https(leeward: Leeward) -> None:
    assert (
        findings(leeward, LEEWARD_PUBLIC_URL="http://pages.example.org")[1]["LEEWARD_PUBLIC_URL is not https"]
        == "error"
    )
    found = findings(leeward, LEEWARD_PUBLIC_URL="https://pages.example.org")[1]
    assert not [what for what in found if "https" in what]


def test_a_fhir_server_is_read_by_https(leeward: Leeward, tmp_path: Path) -> None:
    for base, expected in (("http://chart.example/fhir", "error"), ("https://chart.example/fhir", None)):
        (tmp_path / "leeward.toml").write_text(f"[sources.chart]\nkind = 'fhir'\nbase_url = '{base}'\n")
        assert findings(leeward)[1].get("sources.chart.base_url is not https") == expected


def test_certificates_that_end_are_seen(leeward: Leeward, tmp_path: Path) -> None:
    (tmp_path / "leeward.toml").write_text(
        "[sources.ehr]\nkind = 'hl7v2'\ncertificate = ['engine.example']\n[sources.lab]\nkind = 'hl7v2'\n"
    )
    authority = Authority()

    def seen(days: float) -> dict[str, str]:
        pair = authority.pair("leeward.example", days=days, client=False)
        variables = {"CERTIFICATE": pair.certificate, "KEY": pair.key, "CLIENT_CA": authority.pem}
        given = {f"LEEWARD_MLLP_{name}": value for name, value in variables.items()}
        return findings(leeward, **given, LEEWARD_CLOCK="")[1]

    assert seen(20.5)["LEEWARD_MLLP_CERTIFICATE expires in 20 days"] == "warning"
    assert seen(-1)["LEEWARD_MLLP_CERTIFICATE has expired"] == "error"
    late = seen(90)
    assert [what for what in late if "MLLP_CERT" in what] == []
    assert late["sources.lab lists no certificate"] == "warning"
    assert "sources.ehr has no secret" not in late


def test_a_log_that_was_begun_again_is_named_for_two_weeks(leeward: Leeward, environment: dict[str, str]) -> None:
    assert leeward("migrate").returncode == 0
    with sqlite3.connect(Path(environment["LEEWARD_DATA"]) / "matching.db") as database:
        columns = "(topic, seq, reread_at, reread_why)"
        for topic, at, why in (("incident", "2026-11-20", "numbers_again"), ("notify", "2026-10-20", "gone")):
            values = (f"leeward.{topic}", 7, f"{at} 08:00:00.000000", why)
            database.execute(f"INSERT INTO position {columns} VALUES (?, ?, ?, ?)", values)
    database.close()
    _, found = findings(leeward)
    [what] = [what for what in found if what.startswith("matching, ")]
    assert what.startswith("matching, leeward.incident: a database was put back")
    assert what.endswith("(numbers_again, 2026-11-20)")
    assert found[what] == "warning"
