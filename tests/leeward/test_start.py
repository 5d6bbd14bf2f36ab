"""A command imports what it needs when it needs it: a start must not wait for what it does not use."""

import subprocess
import sys
from typing import Final

import pytest

# what only some commands, some settings or a migration need
SELDOM: Final = ("alembic", "aiokafka", "asyncpg", "icalendar", "openpyxl", "rich", "websockets")
HEAVY: Final = ("cryptography", "fastapi", "httpx", "pydantic", "sqlalchemy", "uvicorn")
HELP: Final = "from services.__main__ import app; app(['--help'], standalone_mode=False)"
START: Final = "from leeward import runtime; from services.commands import catalogue; catalogue.load()"


@pytest.mark.parametrize(("code", "absent"), [(HELP, (*SELDOM, *HEAVY)), (START, SELDOM)], ids=["help", "start"])
def test_what_is_not_used_is_not_imported(code: str, absent: tuple[str, ...]) -> None:
    report = f"{code}\nimport sys; print('loaded:', *sorted(set({absent!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "loaded:"
