"""Make the secrets that docker-compose.yml names: `python make_secrets.py [FOLDER]`. What is there is never replaced.

Every file holds one value and no line end.
"""

import base64
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from leeward.settings import SERVICES, ServiceName
from leeward.settings.keys import assertion_key

HOSTS: Final[dict[ServiceName, str]] = dict.fromkeys(SERVICES, "postgres") | {"box": "postgres-box"}
# A container's user is not the one who runs this, so the files must be readable by everybody; the folder is closed, so
# that on this machine nobody else gets to them. Docker hands a container the files alone, whatever the folder allows.
FILE_MODE: Final = 0o644
FOLDER_MODE: Final = 0o700


def key() -> str:
    """32 random bytes, base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def token() -> str:
    """48 letters and digits: what stands in an address unescaped, and travels as a bearer token."""
    return secrets.token_hex(24)


def database_url(service: ServiceName) -> str:
    """Where a service finds its database, as a role of its name with a password of its own."""
    return f"postgresql+asyncpg://{service}:{token()}@{HOSTS[service]}:5432/{service}"


def public_key(folder: Path) -> str:
    """By which issuer checks what notify signs: it follows from notify's key, which issuer must not have."""
    private = assertion_key(base64.b64decode((folder / "notify_key").read_bytes()))
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def values(folder: Path) -> dict[str, Callable[[], str]]:
    """What makes each file, by its name; in an order in which one may follow from another."""
    return {
        **{f"{name}_key": key for name in SERVICES},
        **{f"{name}_database_url": partial(database_url, name) for name in SERVICES},
        "assertion_public_key": partial(public_key, folder),
        "people_key": key,
        "services_secret": token,
        "metrics_token": token,
        "postgres_password": token,
        "postgres_box_password": token,
        "source_ehr_secret": token,
        "source_safety_secret": lambda: f"whsec_{key()}",
        "smtp_url": str,
    }


def make(folder: Path) -> list[str]:
    """Make what is missing; gives the names of what was made."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)
    missing = {name: value for name, value in values(folder).items() if not (folder / name).exists()}
    made = [name for name, value in missing.items() if put(folder / name, value)]
    # a power cut after the first start must not leave databases whose keys are gone
    os.sync()
    return made


def put(file: Path, value: Callable[[], str]) -> bool:
    """Write a value whole or not at all, and never over another one; False where somebody else was first."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    draft.write_text(value(), encoding="utf-8")
    draft.chmod(FILE_MODE)
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("secrets")
    for name in make(folder):
        print(f"made {folder / name}")
    if (folder / "assertion_public_key").read_text(encoding="utf-8").strip() != public_key(folder):
        print(f"{folder / 'assertion_public_key'} is not that of notify_key: remove it and run this again")
        return 1
    if not (folder / "smtp_url").read_text(encoding="utf-8").strip():
        print(f"{folder / 'smtp_url'} is empty: write smtp://user:password@host:port into it, or no mail leaves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
