"""`pacs serve`."""

import os
import sys
from typing import TYPE_CHECKING

import click

from pacs.cli.options import reconfigured, setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from pacs.config import Config


@click.command(short_help="Serve until SIGTERM or SIGINT.")
@setting("server.ae_title", "--ae-title", metavar="TITLE", help="Our AE title.")
@setting("server.host", "--host", metavar="ADDRESS", help="The address to listen on.")
@setting("server.port", "--port", metavar="PORT", help="The port to listen on; 0 takes any free one.")
@setting("server.workers", "--workers", metavar="N", help="How many processes serve.")
@reconfigured
def serve(read: "Callable[[], Config]") -> None:
    """Serve in the foreground until SIGTERM or SIGINT; a second one stops at once. SIGHUP reads the configuration."""
    from pacs.daemon import Archive, run_until_signalled
    from pacs.notify import Notifier
    from pacs.supervisor import supervise
    from pacs.telemetry import Event, ServerReady, WebReady, log_event, setup_logging

    def announce(event: Event) -> None:
        if isinstance(event, ServerReady):
            secure = f", encrypted on port {event.secure_port}" if event.secure_port != event.port else ", encrypted"
            secure = secure if event.secure_port else ""
            click.echo(f"pacs is ready: AE title {event.ae_title} on {event.host}:{event.port}{secure}")
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
    with Archive(config) as archive:
        archive.events.subscribe(log_event)
        archive.events.subscribe(announce)
        run = supervise if config.server.workers > 1 else run_until_signalled
        notifier = Notifier.from_environment(os.environ)
        run(archive, stopping=say_goodbye, read=read, notifier=notifier)
