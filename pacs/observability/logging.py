"""The log: a subscriber of the event stream, and the set-up of structlog and the standard library's loggers."""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog

from pacs.errors import PacsError
from pacs.observability.events import Event

TEXT_LIMIT = 1000
"""Maximum number of characters of one field in the log."""


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""Escape unprintable characters (newlines, terminal escapes, bidi marks, lone surrogates) as `\xNN`, `\uNNNN` or
    `\UNNNNNNNN`, and replace what follows after `limit` characters by `…`.
    """
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown + "…" if len(text) > limit else shown


def log_event(event: Event) -> None:
    """Log an event as one line; the subscriber of the event stream."""
    level, logger = event.level, logging.getLogger("pacs")
    if logger.isEnabledFor(level):
        left_out = frozenset() if logger.isEnabledFor(logging.DEBUG) else event.DEBUG_FIELDS
        structlog.get_logger("pacs").log(level, event.TITLE, **_log_fields(event, left_out))


def _log_fields(event: Event, left_out: Collection[str]) -> dict[str, Any]:
    """Return the fields of an event for its line, without empty ones."""
    values = {each.name: getattr(event, each.name) for each in fields(event) if each.name not in left_out}
    counts = values.pop("counts", {})
    return {name: _log_value(name, value) for name, value in values.items() if value not in ("", ())} | dict(counts)


def _log_value(name: str, value: Any) -> Any:
    if name == "status":
        return f"0x{value:04X}"
    if name == "duration":
        return round(value, 4)
    return "; ".join(value) if isinstance(value, tuple) else value


LogFormat = Literal["console", "json"]

QUIET = {
    "pynetdicom": logging.CRITICAL + 1,
    "pydicom": logging.ERROR,
    "pylibjpeg": logging.WARNING,
    "py.warnings": logging.ERROR,
    "alembic": logging.WARNING,
    "uvicorn": logging.ERROR,
}
"""Minimum levels of the loggers of libraries, which quote data from peers below these.

pynetdicom is silent: it logs a line for each invalid value, and one A-ASSOCIATE-RQ can hold thousands.
"""


def _is_shown(record: logging.LogRecord) -> bool:
    quiet = QUIET.get(record.name) or QUIET.get(record.name.partition(".")[0]) or logging.NOTSET
    return record.levelno >= quiet


def setup_logging(level: str = "INFO", format: LogFormat = "console", stream: TextIO | None = None) -> None:
    """Send the loggers of structlog and of the standard library to `stream`, by default standard error.

    `level` is the name of a level of `logging`. Unprintable characters are escaped. Tracebacks have the message of an
    error, which may contain patient data, only at level DEBUG.
    """
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback_with_messages if level.upper() == "DEBUG" else _traceback_without_messages,
        _escape,
    ]
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format, out)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)  # pydicom quotes invalid values in warnings
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    handler.addFilter(_is_shown)  # pydicom sets the level of its logger when it is imported later
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def json_line(event: Event) -> str:
    """Return an event as a line of JSON, as in a log of that format, for the standard output of a server."""
    fields = _escape(None, "", _log_fields(event, ()))
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({**fields, "event": event.TITLE, "level": "info", "timestamp": time}, ensure_ascii=False)


@contextmanager
def uncaught_logged() -> Iterator[None]:
    """Log what no thread catches while the body runs, and unexpected exceptions of the body, which end the program.

    Otherwise Python prints them, with their messages, in a format of its own.
    """
    before = threading.excepthook, sys.unraisablehook
    logger = logging.getLogger("pacs")
    threading.excepthook = lambda failed: logger.critical("a thread failed", exc_info=failed.exc_value)
    sys.unraisablehook = lambda failed: logger.error("an exception was ignored", exc_info=failed.exc_value)
    try:
        yield
    except (PacsError, BrokenPipeError):  # commands end with a sentence for these
        raise
    except Exception as error:
        logger.critical("the server failed", exc_info=error)
        sys.exit(1)
    finally:
        threading.excepthook, sys.unraisablehook = before


def set_level(level: str) -> None:
    """Change the level of the log, given by its name in `logging`."""
    logging.getLogger().setLevel(level.upper())


def _renderer(format: LogFormat, out: TextIO) -> Any:
    if format == "json":
        return structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=24, sort_keys=False)


EventDict = MutableMapping[str, Any]


def _escape(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    """Escape unprintable characters in all texts except the traceback."""
    for key, value in event_dict.items():
        if isinstance(value, str) and key != "exception":
            event_dict[key] = printable(value)
    return event_dict


def _traceback_without_messages(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    return _with_traceback(event_dict, messages=False)


def _traceback_with_messages(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    return _with_traceback(event_dict, messages=True)


def _with_traceback(event_dict: EventDict, *, messages: bool) -> EventDict:
    error = _error_of(event_dict.pop("exc_info", None))
    if error is None:
        return event_dict
    record = event_dict.get("_record")
    if record is not None:  # a record of the standard library: the formatter must not render its traceback again
        record.exc_info = record.exc_text = None
    event_dict["exception"] = _describe(error, messages=messages)
    return event_dict


def _error_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _describe(error: BaseException, *, messages: bool) -> str:
    """Return frames and classes of an error and its causes, innermost first, at most eight errors."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 8:
        told = f": {printable(str(current))}" if messages else ""
        frames = traceback.format_list(traceback.extract_tb(current.__traceback__, limit=-30))
        parts.append("".join(frames) + type(current).__qualname__ + told)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by\n".join(parts)
