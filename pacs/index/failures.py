"""What a failure of the database means, as a sentence that may be sent to a peer: by the error code of its driver.

The texts of drivers may contain values and paths; they are never sent.
"""

from sqlalchemy.exc import DBAPIError

SENTENCES = {
    # SQLite, by the names of its result codes; an extended code that is not here has the sentence of its primary code.
    "SQLITE_READONLY": "the file of the index is read-only: check its owner and mode",
    "SQLITE_READONLY_DIRECTORY": "the folder of the index is read-only: check its owner and mode",
    "SQLITE_PERM": "the file of the index cannot be opened: check owner and mode",
    "SQLITE_CANTOPEN": "the file of the index cannot be opened: check owner and mode",
    "SQLITE_FULL": "the disk of the index is full: free some space",
    "SQLITE_IOERR": "the disk of the index cannot be used: see the system's log",
    "SQLITE_CORRUPT": "the file of the index is damaged: restore or rebuild it",
    "SQLITE_NOTADB": "the file of the index is no SQLite database",
    "SQLITE_BUSY": "another program locks the index: try again later",
    "SQLITE_LOCKED": "another program locks the index: try again later",
    # PostgreSQL, by SQLSTATE; one that is not here has the sentence of its class, the first two characters.
    "08": "the database cannot be reached: check that its server runs",
    "25006": "the database is read-only: a standby, or set so for the user",
    "28": "the database refuses the user or password of database.url",
    "3D000": "the database of database.url does not exist: create it",
    "42501": "the database user lacks rights on the tables of the index",
    "42P01": "the database has no tables of an index: run `pacs db upgrade`",
    "53100": "the disk of the database is full: free some space",
    "53200": "the database server is out of memory: try again later",
    "53300": "the database has no free connection: try again later",
    "55P03": "another program locks the index: try again later",
    "57": "the database is starting or stopping: try again later",
}

CONNECTING = {
    "too many clients": "53300",
    "too many connections": "53300",
    "connection slots are reserved": "53300",
    "authentication failed": "28",
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    "is not permitted to log in": "28",
    'role "': "28",
    'database "': "3D000",
    "is starting up": "57",
    "is shutting down": "57",
    "in recovery mode": "57",
    "not yet accepting connections": "57",
    "not currently accepting connections": "57",
    "connection refused": "08",
    "is the server running": "08",
    "could not translate host name": "08",
    "failed to resolve host": "08",
    "timeout expired": "08",
}
"""SQLSTATEs of failures to connect, for which the driver has none, by a part of the English text in lower case; the
first one that is found counts."""

OTHER = "the index does not respond: try again later"


def sentence(error: BaseException) -> str:
    """Return what an error of a driver, or of SQLAlchemy, means."""
    driver = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return SENTENCES.get(_known(_code(driver)), OTHER)


def _code(driver: BaseException) -> str:
    """Return the error code, '' if it is unknown."""
    code = getattr(driver, "sqlite_errorname", None) or getattr(driver, "sqlstate", None)
    said = str(driver).lower()
    return code or next((known for part, known in CONNECTING.items() if part in said), "")


def _known(code: str) -> str:
    """Return the code in the table that comes closest."""
    primary = "_".join(code.split("_")[:2]) if code.startswith("SQLITE_") else code[:2]
    return code if code in SENTENCES else primary
