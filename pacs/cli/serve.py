"""`pacs serve`."""

import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.exit_status import exit_status
from pacs.cli.options import setting_option, with_config_loader
from pacs.cli.verbosity import say
from pacs.support.sockets import host_and_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from pacs.config import Config
    from pacs.faults.model import Scenario
    from pacs.observability.events import Event, EventStream


def _scenario(ctx: click.Context, _parameter: click.Parameter, name: Any) -> "Scenario | None":
    """Load the named scenario; options override its settings. `list` prints the presets."""
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


@click.command(short_help="Run the server.")
@setting_option("server.ae_title", "--ae-title", metavar="TITLE", help="AE title of the server.")
@setting_option("server.host", "--host", metavar="ADDRESS", help="Address to listen on.")
@setting_option("server.port", "--port", metavar="PORT", help="Port to listen on; 0 chooses a free port.")
@setting_option(
    "server.workers", "--workers", metavar="N", help="Number of worker processes; auto: one per CPU core, at most 4."
)
@setting_option(
    "server.shared", "--shared", is_flag=True, default=None, help="Allow other servers with the same files and index."
)
@click.option(
    "--scenario",
    metavar="FILE",
    is_eager=True,
    callback=_scenario,
    help="Inject faults from a scenario file or preset, to test other programs; `list` shows the presets.",
)
@with_config_loader
def serve(read: "Callable[[], Config]", scenario: "Scenario | None") -> None:
    """Run the server in the foreground.

    SIGTERM or SIGINT (Ctrl-C) stops it after running operations have ended, a second signal immediately. SIGHUP reloads
    the configuration.
    """
    from pacs.errors import PacsError
    from pacs.observability.logging import setup_logging, uncaught_logged

    if scenario is not None:
        read = partial(_in_one_process, read)
    config = read()
    setup_logging(config.log.level, config.log.format)
    try:
        with uncaught_logged():
            _serve(config, read, scenario)
    except PacsError as error:
        if config.log.format != "json":
            raise
        logging.getLogger("pacs").log(logging.ERROR, "; ".join((error.comment, *getattr(error, "__notes__", ()))))
        raise click.exceptions.Exit(exit_status(error)) from error


def _in_one_process(read: "Callable[[], Config]") -> "Config":
    """Return the configuration that `read` returns, with one worker instead of "auto"."""
    config = read()
    server = config.server
    workers = 1 if server.workers == "auto" else server.workers
    return config.model_copy(update={"server": server.model_copy(update={"workers": workers})})


def _serve(config: "Config", read: "Callable[[], Config]", scenario: "Scenario | None") -> None:
    from pacs.archive import Archive
    from pacs.daemon import run_until_signalled
    from pacs.observability.logging import log_event
    from pacs.observability.systemd import Notifier
    from pacs.settings import workers
    from pacs.workers import supervise

    def announce_stop() -> None:
        if sys.stderr.isatty() and config.log.format != "json":
            seconds = f"{archive.config.limits.drain_seconds:g} s"
            waiting = f"pacs is waiting up to {seconds} for running operations; press Ctrl-C again to stop immediately"
            say(waiting, err=True)

    with Archive(config, fault_hook=_fault_hook(scenario, config), workers=workers(config)) as archive:
        log = log_event if config.log.format == "json" or not _shows_both() else _log_except_ready
        archive.events.subscribe(log)
        _warn(scenario, archive.events)
        archive.events.subscribe(_announce_in_json if config.log.format == "json" else partial(_announce, scenario))
        run = supervise if archive.workers > 1 else run_until_signalled
        gc.freeze()  # a search for garbage among all modules would stop every association for a fifth of a second
        notifier = Notifier.from_environment(os.environ)
        run(archive, stopping=announce_stop, read=read, notifier=notifier)


def _shows_both() -> bool:
    """Return whether log and standard output are on one terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _log_except_ready(event: "Event") -> None:
    """Log an event, except for those that `_announce` prints beside the log."""
    from pacs.observability.events import ServerReady, WebReady
    from pacs.observability.logging import log_event

    if not isinstance(event, ServerReady | WebReady):
        log_event(event)


def _announce(scenario: "Scenario | None", event: "Event") -> None:
    """Print that the server is ready."""
    from pacs.observability.events import ServerReady, WebReady

    if isinstance(event, ServerReady):
        where = host_and_port(event.host, event.port)
        secure = f", TLS on port {event.secure_port}" if event.secure_port != event.port else " with TLS"
        secure = secure if event.secure_port else ""
        faults = f", INJECTS FAULTS: scenario {scenario.name}" if scenario else ""
        say(f"pacs is ready: AE title {event.ae_title} on {where}{secure}{faults}")
    if isinstance(event, WebReady):
        scheme = "https" if event.is_secure else "http"
        say(f"pacs serves {scheme}://{host_and_port(event.host, event.port)}/healthz, /readyz and /metrics")


def _announce_in_json(event: "Event") -> None:
    """Print that the server is ready, as a line of JSON."""
    from pacs.observability.events import ServerReady, WebReady
    from pacs.observability.logging import json_line

    if isinstance(event, ServerReady | WebReady):
        say(json_line(event))


def _fault_hook(scenario: "Scenario | None", config: "Config") -> Any:
    """Return the fault injection of a scenario, None without one. Raises ConfigurationError."""
    from pacs.errors import ConfigurationError

    if scenario is None:
        return None
    if config.server.workers != 1:
        why = "a scenario counts messages, and each worker would count separately"
        raise ConfigurationError(f"server.workers = {config.server.workers}: expected 1 with --scenario, because {why}")
    from pacs.faults.interposer import Interposer

    return Interposer(scenario)


def _warn(scenario: "Scenario | None", events: "EventStream") -> None:
    """Publish a notice that the server injects faults."""
    from pacs.observability.events import Notice

    if scenario is not None:
        what = f"scenario {scenario.name} with {len(scenario.faults)} faults, seed {scenario.seed}"
        events.publish(Notice(sentence=f"this server injects faults ({what}); do not use it for real images"))
