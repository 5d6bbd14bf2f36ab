"""deploy/postgres/databases.sh on a real cluster: a database a role, and nobody in another's."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from services.demo.servers import PostgreSQL
from tests.deploy.clusters import begin, prepare
from tests.deploy.compose import SERVICES


async def connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url.replace("+asyncpg", ""), timeout=10)


@pytest.fixture(scope="module")
def urls(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of the four, on a cluster made as Compose makes it."""
    folder = tmp_path_factory.mktemp("cluster")
    with PostgreSQL(folder) as server:
        yield prepare(server, made, folder / "secrets", tuple(SERVICES["postgres"]["secrets"]))


async def test_each_role_has_its_database(urls: dict[str, str]) -> None:
    assert set(urls) == {"incident", "matching", "notify", "issuer"}
    for name, url in urls.items():
        conn = await connect(url)
        await conn.execute("CREATE TABLE thing (id int)")
        await conn.execute("VACUUM thing")
        may = await conn.fetchrow("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = $1", name)
        assert not any(may)
        await conn.close()


async def test_no_role_gets_into_another_database(urls: dict[str, str]) -> None:
    for name, url in urls.items():
        for other in {*urls, "postgres", "template1"} - {name}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connect(f"{url.removesuffix(name)}{other}")


async def test_a_password_is_asked_for(urls: dict[str, str]) -> None:
    login = urls["notify"].split("@")[0]
    for wrong in (f"{login}x", login.rpartition(":")[0]):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            await connect(urls["notify"].replace(login, wrong))


def test_a_cluster_begins_with_the_words_of_compose(tmp_path: Path) -> None:
    done = begin(tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "default collation: C.UTF-8" in done.stdout.replace("  ", " ")
    assert (
        SERVICES["postgres-box"]["environment"]["POSTGRES_INITDB_ARGS"] in SERVICES["postgres"]["environment"].values()
    )
