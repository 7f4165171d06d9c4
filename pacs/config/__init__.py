"""The typed configuration. Precedence: flags, environment, config.toml, defaults.

Only the commands, the composition root and `pacs.settings` read it; other parts get plain values. An error lists
everything that is wrong: key, value, origin and what was expected.
"""

from pacs.config.error_messages import keys
from pacs.config.in_force import ValueInForce, values_in_force
from pacs.config.model import (
    AuditSection,
    CommitmentSection,
    Config,
    DatabaseSection,
    FilesSection,
    LimitsSection,
    MetricsSection,
    PeerEntry,
    ServerSection,
    WebSection,
    fingerprint,
    is_loopback,
    split_address,
)
from pacs.config.peers_file import PeersFile
from pacs.config.scenario import load_scenario, presets
from pacs.config.sources import (
    DEFAULT_FILE,
    PEERS_FILE,
    Sources,
    find_file,
    from_settings,
    load,
    read_sources,
    revalidated,
    template,
)

__all__ = [
    "DEFAULT_FILE",
    "PEERS_FILE",
    "AuditSection",
    "CommitmentSection",
    "Config",
    "DatabaseSection",
    "FilesSection",
    "LimitsSection",
    "MetricsSection",
    "PeerEntry",
    "PeersFile",
    "ServerSection",
    "Sources",
    "ValueInForce",
    "WebSection",
    "find_file",
    "fingerprint",
    "from_settings",
    "is_loopback",
    "keys",
    "load",
    "load_scenario",
    "presets",
    "read_sources",
    "revalidated",
    "split_address",
    "template",
    "values_in_force",
]
