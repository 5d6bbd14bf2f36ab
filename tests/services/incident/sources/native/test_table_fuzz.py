"""Whatever bytes are sent as a table or given as a list: taken whole, or refused by line and rule without a value."""

import re

from hypothesis import strategies as st

from services.incident.reconciliation import read_list
from services.incident.sources.native.table import TableError, read_table
from tests.fuzzing import fuzzed
from tests.services.incident.sources.native.test_submission import HEADER, ROWS

CANARY = "Zq7Canary"
LIST = ["occurred_at,unit,patient,source,source_ref", f"2026-11-21,{CANARY},{CANARY}={CANARY},,"]
PLACE = re.compile(r"line \d+, (file|row|header|column \d+|[a-z_]+): [^\n]+")
CELL = st.one_of(
    st.sampled_from(["", '"', '""', ",", ";", "=", "\n", "\r", "\x00", "\ufeff", "a=b;=", "9" * 400, CANARY]),
    st.text(max_size=20),
    st.just(f"{CANARY}={CANARY}"),
)
ROW = st.lists(CELL, max_size=12).map(",".join)


def table(rows: list[str]) -> st.SearchStrategy[bytes]:
    """Rows that are right, with others between, cut and damaged anywhere."""
    lines = st.lists(st.one_of(st.sampled_from(rows), ROW), max_size=6).map(lambda more: "\n".join([rows[0], *more]))
    whole = st.one_of(lines.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=200))
    return st.tuples(whole, st.integers(0, 400), st.binary(max_size=3)).map(
        lambda given: given[0][: given[1]] + given[2] + given[0][given[1] :]
    )


def refused(fault: TableError) -> None:
    assert fault.faults
    for one in fault.faults:
        assert PLACE.fullmatch(str(one))
        assert CANARY not in str(one)


@fuzzed(table([HEADER, *(row.replace("ICU", CANARY) for row in ROWS)]))
def test_a_table_is_taken_or_refused(raw: bytes) -> None:
    try:
        reports = read_table(raw)
    except TableError as fault:
        refused(fault)
    else:
        assert 0 < len(reports) == len({one.source_ref for one in reports})


@fuzzed(table(LIST))
def test_a_list_is_taken_or_refused(raw: bytes) -> None:
    try:
        outcomes = read_list(raw)
    except TableError as fault:
        refused(fault)
    else:
        assert all(one.at <= one.until and (one.patient or one.source_ref) for one in outcomes)
