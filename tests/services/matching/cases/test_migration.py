"""What a release before has written is carried over, reason by reason."""

from pathlib import Path

from alembic import command
from sqlalchemy import Connection, text

from leeward.store.migrate import alembic_config, migrate
from leeward.store.sqlite import sqlite_engine
from services.matching.models import METADATA

PACKAGE = "services.matching"
CASES = {
    "quiet": ("offered", None, None, ""),
    "stuck": ("waiting", "unreachable", None, "unreachable"),
    # accepted, nobody free, and an alarm that overwrote it
    "alone": ("accepted", "on_call_silent", None, "on_call_silent no_supporter"),
    "helped": ("supported", "on_call_silent", "sue", "on_call_silent"),
}
INSERT = text(
    "INSERT INTO support_case (case_ref, stage, attention, supporter, notes, urgency, tries, requests, offers, wanted,"
    " check_ins, checked, supported, professional, opened_at, occurred_at, ends_at) VALUES (:ref, :stage, :attention,"
    " :supporter, '', 'routine', 0, 0, 0, 'hours', 0, 0, 0, 0, :now, :now, :now)"
)


def fill(conn: Connection) -> None:
    command.upgrade(alembic_config(PACKAGE, METADATA, conn), "0004")
    for ref, (stage, attention, supporter, _) in CASES.items():
        values = {"ref": ref, "stage": stage, "attention": attention, "supporter": supporter}
        conn.execute(INSERT, {**values, "now": "2026-11-21 09:00:00.000000"})


def stored(conn: Connection) -> dict[str, str | None]:
    rows = conn.execute(text("SELECT case_ref, attention FROM support_case"))
    return {row.case_ref: row.attention for row in rows}


def test_no_reason_is_lost_on_the_way_up_nor_the_first_on_the_way_down(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "matching.db")
    with engine.begin() as conn:
        fill(conn)
    with engine.begin() as conn:
        assert migrate(conn, PACKAGE, METADATA)
        assert stored(conn) == {ref: reasons for ref, (*_, reasons) in CASES.items()}
    with engine.begin() as conn:
        command.downgrade(alembic_config(PACKAGE, METADATA, conn), "0004")
        assert stored(conn) == {ref: attention for ref, (_, attention, _, _) in CASES.items()}
    engine.dispose()
