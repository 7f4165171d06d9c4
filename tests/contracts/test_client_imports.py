"""The modules that `import pacs.client` loads in a fresh Python."""

import subprocess
import sys

ARCHIVE = (
    "pacs.services",
    "pacs.index",
    "pacs.files",
    "pacs.observability",
    "pacs.archive",
    "pacs.config",
    "pacs.web",
    "pacs.dimse.scp",
    "pacs.faults",
    "sqlalchemy",
    "structlog",
    "pydantic",
)


def test_the_client_loads_no_module_of_an_archive():
    """Neither directly nor through the modules it imports, and also not for a receiver of its own."""
    program = "import sys, pacs.client, pacs.client.receive.receiver; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert "pacs.dimse.server.server" in loaded
    assert [each for each in loaded if each.startswith(ARCHIVE)] == []
