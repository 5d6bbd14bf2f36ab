"""The `leeward` command: how each of its words is called. What they do is imported when they are."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.commands.console import Failed, warn

app = typer.Typer(
    name="leeward",
    help="Discreet peer support for hospital staff. Exit codes: 0 done, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def group(name: str, about: str) -> typer.Typer:
    """A word with words of its own."""
    made = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made


token = group("token", "API tokens: create, list, revoke.")
staff = group("staff", "The roster: check, import.")
rota = group("rota", "The rota: import.")
fhir = group("fhir", "FHIR servers: subscribe, keys.")
hl7 = group("hl7", "HL7 v2 messages: send, explain, replay.")
dlq = group("dlq", "Events that were given up, and those that wait to be tried again: list, show, replay, drop.")


class ServiceWord(StrEnum):
    """One of the five."""

    INCIDENT = "incident"
    MATCHING = "matching"
    NOTIFY = "notify"
    ISSUER = "issuer"
    BOX = "box"


class RoleWord(StrEnum):
    """Who somebody signs in as."""

    COORDINATOR = "coordinator"
    TRAINER = "trainer"
    REPORTER = "reporter"
    OPS = "ops"


@contextmanager
def collecting_later() -> Iterator[None]:
    """Spare a start the search for cycles, an eighth of its time; the runtime begins it once all is loaded."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


Idents = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `leeward dlq list` gives them.")]
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
ClockIsRight = Annotated[
    bool, typer.Option("--clock-is-right", help="Believe the clock again, first; what waits for it goes on.")
]


@app.command()
def up() -> None:
    """Bring the databases up to date and run everything until Ctrl-C or SIGTERM."""
    with collecting_later():
        from services.commands.operate import running

        running.up()


@app.command()
def run(services: Annotated[list[ServiceWord], typer.Argument(metavar="SERVICE...")]) -> None:
    """Run some services alone: incident, matching, notify, issuer, box."""
    with collecting_later():
        from services.commands.operate import running

        running.run([service.value for service in services])


@app.command()
def demo(
    *,
    once: Annotated[bool, typer.Option("--once", help="Play every person and check each step.")] = False,
    distributed: Annotated[bool, typer.Option("--distributed", help="On Kafka and PostgreSQL, in replicas.")] = False,
) -> None:
    """Start a hospital that does not exist, send a real HL7 message and show what follows."""
    from services.demo import command

    raise typer.Exit(command.run(once=once, many=distributed))


@app.command()
def migrate(services: Annotated[list[ServiceWord] | None, typer.Argument(metavar="[SERVICE...]")] = None) -> None:
    """Bring databases to their newest revision, all or some, and make what the bus lacks."""
    from services.commands.operate import running

    running.migrate([service.value for service in services or ()])


@app.command()
def doctor(*, as_json: Json = False, clock_is_right: ClockIsRight = False) -> None:
    """Say what is missing or wrong, one line each, and what to do about it."""
    from services.commands.operate import doctor as command

    if clock_is_right:
        command.vouch_for_clock()
    raise typer.Exit(command.doctor(as_json=as_json))


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show figures of every service; in rehearsal, what would have been sent and which gaps there are."""
    from services.commands.operate import status as command

    command.status(as_json=as_json)


@app.command()
def backup(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Copy all databases into a new folder, while the system runs or not; keys are not in it."""
    from services.commands.operate import backup as command

    command.backup(folder)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Also where erasures of some days may come back.")] = False,
) -> None:
    """Put a backup back in place of all databases; the services must be stopped."""
    from services.commands.operate import restore as command

    raise typer.Exit(command.restore(folder, yes=yes))


@app.command()
def login(role: RoleWord) -> None:
    """Print a link that signs a browser on this machine in, once."""
    from services.commands.operate import access

    access.login(role.value)


@token.command("create")
def token_create(role: RoleWord) -> None:
    """Make an API token; the last word printed is the token, and it is shown this once."""
    from services.commands.operate import access

    access.create(role.value)


@token.command("list")
def token_list(*, as_json: Json = False) -> None:
    """List the tokens by handle, role and last day."""
    from services.commands.operate import access

    access.list_tokens(as_json=as_json)


@token.command("revoke")
def token_revoke(handle: str) -> None:
    """End a token by its handle."""
    from services.commands.operate import access

    access.revoke(handle)


@staff.command("check")
def staff_check(file: File) -> None:
    """Check a roster (CSV or XLSX) and write nothing."""
    from services.commands.people import staff as command

    command.check(file)


@staff.command("import")
def staff_import(
    file: File,
    *,
    leaving: Annotated[int | None, typer.Option(help="How many people are to leave by it, exactly.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Import a roster (CSV or XLSX); whoever is missing from it has left."""
    from services.commands.people import staff as command

    command.import_file(file, leaving=leaving, as_json=as_json)


@rota.command("import")
def rota_import(file: File, *, as_json: Json = False) -> None:
    """Import a rota (iCalendar)."""
    from services.commands.people import rota as command

    command.import_file(file, as_json=as_json)


@hl7.command("send")
def hl7_send(
    file: File,
    *,
    host: Annotated[str, typer.Option(help="Where the listener is; this machine's settings by default.")] = "",
    port: Annotated[int, typer.Option(help="Its port; LEEWARD_MLLP_PORT by default.", min=0, max=65535)] = 0,
    ca: Annotated[Path | None, typer.Option(help="Send over TLS: PEM of who signed its certificate.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM of our own certificate, where it asks for one.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of that certificate's key, if it is not beside it.")] = None,
) -> None:
    """Send the messages of a file over MLLP and show how each was acknowledged."""
    from services.commands.sources import hl7 as command

    if ca is None and (cert or key):
        raise typer.BadParameter("--cert and --key need --ca")
    command.send(file, host, port, command.Tls(ca, cert, key) if ca else None)


@hl7.command("explain")
def hl7_explain(file: File, *, as_json: Json = False) -> None:
    """Say what would be done with the messages of a file, and why, without sending them."""
    from services.commands.sources import hl7 as command

    command.explain(file, as_json=as_json)


@hl7.command("replay")
def hl7_replay(
    *,
    source: Annotated[str, typer.Option(help="A source of leeward.toml, of any kind.")],
    since: Annotated[str, typer.Option(help="A time with its offset, or how long ago, such as 36h.")],
    until: Annotated[str, typer.Option(help="Likewise; now by default.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come of it, and store nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Decide a source's stored messages of the last days again, after a rule was mended."""
    from services.commands.sources import replay as command

    command.replay(source, since, until, dry_run=dry_run, as_json=as_json)


@app.command()
def reconcile(file: File, *, as_json: Json = False) -> None:
    """Compare the hospital's own list of severe outcomes with incidents and offers; 1 where any is missing."""
    from services.commands.sources import reconcile as command

    raise typer.Exit(command.reconcile(file, as_json=as_json))


class Content(StrEnum):
    """What a notification carries."""

    EMPTY = "empty"
    ID_ONLY = "id-only"
    FULL_RESOURCE = "full-resource"


@fhir.command("subscribe")
def fhir_subscribe(
    source: str,
    content: Annotated[Content, typer.Option(help="What the server sends along.")] = Content.ID_ONLY,
    *,
    as_json: Json = False,
) -> None:
    """Create the subscription of a source at its FHIR server."""
    from services.commands.sources import fhir as command

    command.subscribe(source, content.value, as_json=as_json)


@fhir.command("keys")
def fhir_keys(source: str) -> None:
    """Print the JWK set to register with a source's server (SMART Backend Services)."""
    from services.commands.sources import fhir as command

    command.keys(source)


@dlq.command("list")
def dlq_list(*, service: Annotated[ServiceWord | None, typer.Option()] = None, as_json: Json = False) -> None:
    """List what was given up, by which fault and where, and what waits; never what is in it."""
    from services.commands.operate import dlq as command

    command.list_parked(service.value if service else None, as_json=as_json)


@dlq.command("show")
def dlq_show(ident: Annotated[str, typer.Argument(metavar="ID")], *, as_json: Json = False) -> None:
    """Show one with its attributes; of an event that this release does not understand only how long it is."""
    from services.commands.operate import dlq as command

    command.show(ident, as_json=as_json)


@dlq.command("replay")
def dlq_replay(
    idents: Idents = None,
    *,
    service: Annotated[ServiceWord | None, typer.Option(help="All that one service has given up.")] = None,
) -> None:
    """Have the service try them again at once; what was erased or called off meanwhile has no effect."""
    from services.commands.operate import dlq as command

    command.replay(idents or [], service.value if service else None)


@dlq.command("drop")
def dlq_drop(idents: Annotated[list[str], typer.Argument(metavar="ID...")], *, yes: Yes = False) -> None:
    """Remove permanently what was given up; the service logs that."""
    from services.commands.operate import dlq as command

    raise typer.Exit(command.drop(idents, yes=yes))


def main() -> None:
    """Run the command; a fault that has an explanation is one line and exit code 1."""
    # a library's own words would stand beside the one line that says what is wrong
    logging.root.addHandler(logging.NullHandler())
    try:
        app()
    except Exception as fault:
        from leeward.settings import SettingsError

        if not isinstance(fault, (SettingsError, Failed)):
            raise
        warn(str(fault))
        sys.exit(1)


if __name__ == "__main__":
    main()
