"""`leeward demo`: the story played by itself (`--once`), or begun and left to whoever watches."""

import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from services.demo.play import node
from services.demo.play.narrator import Narrator, NotObserved
from services.demo.play.story import Play
from services.demo.servers import ServerError
from services.demo.world import hospital
from services.demo.world.distributed import distributed
from services.demo.world.embedded import Embedded
from services.demo.world.hospital import ICU_DEATH
from services.demo.world.mailbox import Mail
from services.demo.world.processes import NotRunning
from services.demo.world.running import RATE, World, running_world
from services.demo.world.system import System

HOLD: Final = timedelta(minutes=50)
STARTING: Final = "Kafka and two PostgreSQL are started for it; Kafka is fetched first where it has never been (46 MB)."


def run(*, once: bool, many: bool) -> int:
    """Run the demonstration, with `many` on Kafka and PostgreSQL; 0 when all of it was observed."""
    import uvloop

    narrator = Narrator()
    # before it is the loop's: ends what has been started by then, and leaves nothing behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        if once:
            node.node()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
            system: System = Embedded()
            if many:
                narrator.say(STARTING)
                system = stack.enter_context(distributed(folder))
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            return runner.run(_play_all(folder, system, narrator) if once else _stay(folder, system, narrator))
    except (NotObserved, NotRunning, ServerError, node.NoNode, node.Refused) as fault:
        narrator.say(f"✗ NOT OBSERVED: {fault}")
        return 1


async def _play_all(folder: Path, system: System, narrator: Narrator) -> int:
    """Play everybody, and end."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with running_world(folder, system) as world:
        _introduce(world, narrator)
        narrator.say(f"Its mails are at {world.mail_url}")
        await Play(world, narrator).run()
    narrator.chapter(f"All {narrator.observed} steps were observed, in {narrator.seconds:.0f} seconds.")
    return 0


def _introduce(world: World, narrator: Narrator) -> None:
    for line in world.told:
        narrator.say(line)


async def _stay(folder: Path, system: System, narrator: Narrator) -> int:
    """Begin the story, and keep everything running until SIGTERM or SIGINT comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_world(folder, system) as world:
        beginning = asyncio.create_task(_begin_story(world, narrator))
        await asyncio.wait([beginning, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        await stop.wait()
        beginning.cancel()
    narrator.chapter("Stopped; nothing of it is left on this machine.")
    return 0


async def _begin_story(world: World, narrator: Narrator) -> None:
    """Begin the story, and say where it can be taken up."""
    names = {person.email: f"{person.name}, {person.profession}" for person in hospital.people()}

    def announce(mail: Mail) -> None:
        narrator.link(f"Mail for {names.get(mail.to, mail.to)}:", f"{world.mail_url}/mail/{mail.number}")

    world.mailbox.came = announce
    narrator.chapter("A hospital that does not exist, on the real system")
    _introduce(world, narrator)
    narrator.link("All its mailboxes:", world.mail_url)
    narrator.link("The coordinator's board:", f"{world.mail_url}/board")
    narrator.link("Ratings and reports:", world.settings.box_url)
    narrator.say(
        f"Time runs {RATE:g} times as fast as on your wall; on the page of the mailboxes you can let more pass."
    )
    changes = await world.import_roster()
    shifts = await world.import_rota()
    narrator.say(f"{changes.added} staff and {shifts} shifts are imported.")
    narrator.chapter("A patient dies in intensive care; the hospital's system says so by HL7 v2 over MLLP")
    narrator.say(f"ADT^A03, PV1-36 = 20: {await world.send(ICU_DEATH)}")
    narrator.say("Two doctors are named in it; the nurses and the therapist come from the rota. Nobody is disturbed on")
    narrator.say("shift: those who are at work get their message half an hour after it ends, which we let pass now.")
    await world.clock.skip_to(hospital.EARLY_ENDS + HOLD)
    narrator.chapter("Now it is yours")
    narrator.say(
        "Open a mail, follow its link, and choose. Say yes, and a supporter's mail appears here within minutes;"
    )
    narrator.say("confirm it as that supporter, close the form, and the person is asked how it was.")
    narrator.say("Ctrl-C ends it. `make demo ONCE=1` plays everybody by itself, to the published report.")
