"""`pacs serve`."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.options import reconfigured, setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from pacs.config import Config
    from pacs.faults.model import Scenario
    from pacs.observability.events import EventStream


def _scenario(ctx: click.Context, _parameter: click.Parameter, name: Any) -> "Scenario | None":
    """The scenario of this name, whose settings count where no option says otherwise; `list` prints the presets."""
    from pacs.config import load_scenario, presets

    if name is None:
        return None
    if name == "list":
        for each in presets().values():
            click.echo(f"{each.name}\n    {each.description}")
        ctx.exit()
    scenario = load_scenario(name)
    for key, value in scenario.settings.items():
        ctx.ensure_object(dict).setdefault(key, value)
    return scenario


@click.command(short_help="Serve until SIGTERM or SIGINT.")
@setting("server.ae_title", "--ae-title", metavar="TITLE", help="Our AE title.")
@setting("server.host", "--host", metavar="ADDRESS", help="The address to listen on.")
@setting("server.port", "--port", metavar="PORT", help="The port to listen on; 0 takes any free one.")
@setting("server.workers", "--workers", metavar="N", help="How many processes serve.")
@click.option(
    "--scenario",
    metavar="FILE",
    is_eager=True,
    callback=_scenario,
    help="Misbehave as a scenario file says, or a preset; `list` shows the presets. For tests of other programs.",
)
@reconfigured
def serve(read: "Callable[[], Config]", scenario: "Scenario | None") -> None:
    """Serve in the foreground until SIGTERM or SIGINT; a second one stops at once. SIGHUP reads the configuration."""
    from pacs.archive import Archive
    from pacs.daemon import run_until_signalled
    from pacs.observability.events import Event, ServerReady, WebReady
    from pacs.observability.logging import log_event, setup_logging
    from pacs.observability.systemd import Notifier
    from pacs.workers import supervise

    def announce(event: Event) -> None:
        if isinstance(event, ServerReady):
            secure = f", encrypted on port {event.secure_port}" if event.secure_port != event.port else ", encrypted"
            secure = secure if event.secure_port else ""
            wrong = f", MISBEHAVES ON PURPOSE: scenario {scenario.name}" if scenario else ""
            click.echo(f"pacs is ready: AE title {event.ae_title} on {event.host}:{event.port}{secure}{wrong}")
        if isinstance(event, WebReady):
            host = f"[{event.host}]" if ":" in event.host else event.host
            scheme = "https" if event.is_secure else "http"
            click.echo(f"pacs answers {scheme}://{host}:{event.port}/healthz, /readyz and /metrics")

    def say_goodbye() -> None:
        if sys.stderr.isatty():
            latest = f"in {archive.config.limits.drain_seconds:g} s at the latest"
            click.echo(f"pacs stops when what runs has ended, {latest}; Ctrl-C again stops it at once", err=True)

    config = read()
    setup_logging(config.log.level, config.log.format)
    with Archive(config, interposition=_interposed(scenario, config)) as archive:
        archive.events.subscribe(log_event)
        _warn(scenario, archive.events)
        archive.events.subscribe(announce)
        run = supervise if config.server.workers > 1 else run_until_signalled
        notifier = Notifier.from_environment(os.environ)
        run(archive, stopping=say_goodbye, read=read, notifier=notifier)


def _interposed(scenario: "Scenario | None", config: "Config") -> Any:
    """What makes a server misbehave, None without a scenario. Raises ConfigurationError."""
    from pacs.errors import ConfigurationError

    if scenario is None:
        return None
    if config.server.workers > 1:
        why = "a scenario counts messages, and each worker would count for itself"
        raise ConfigurationError(f"server.workers = {config.server.workers}: expected 1 with --scenario: {why}")
    from pacs.faults.interposer import Interposer

    return Interposer(scenario)


def _warn(scenario: "Scenario | None", events: "EventStream") -> None:
    """Say in the log that this is no server to trust."""
    from pacs.observability.events import Notice

    if scenario is not None:
        what = f"scenario {scenario.name} with {len(scenario.faults)} faults, seed {scenario.seed}"
        events.publish(Notice(sentence=f"this server misbehaves on purpose ({what}): never use it for real images"))
