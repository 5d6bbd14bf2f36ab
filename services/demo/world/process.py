"""One process of the distributed demonstration: `python -m services.demo.world.process SERVICE…`.

It does what `leeward run SERVICE…` does, by the demonstration's clock: each line of its input is the clock's setting,
and the end of its input is its own, so that it never outlives who started it.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

from leeward import telemetry
from leeward.runtime import Runtime
from leeward.service import Service
from leeward.settings import Settings, SettingsError, load_settings
from services.commands import catalogue
from services.demo.world.clock import DemoClock


def main() -> None:
    """Run the services named as arguments until the input ends or SIGTERM comes."""
    import uvloop

    telemetry.configure_logs()
    try:
        settings, services = load_settings(), catalogue.load(sys.argv[1:])  # type: ignore[arg-type]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, services))
    except SettingsError as fault:
        sys.exit(str(fault))


async def _run(settings: Settings, services: Sequence[Service]) -> None:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clock = DemoClock.set_to((await reader.readline()).decode())
    runtime = Runtime(settings, services, clock)
    loop.add_signal_handler(signal.SIGTERM, runtime.stop)

    async def follow_clock() -> None:
        while line := await reader.readline():
            clock.follow(line.decode())
        runtime.stop()

    following = asyncio.create_task(follow_clock())
    await runtime.run()
    following.cancel()


if __name__ == "__main__":
    main()
