"""contrib/: the systemd unit, the Grafana dashboard and the Prometheus configuration fit the server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pacs.config import load
from pacs.testing import serving
from tests.programs import missing
from tests.web.answering import get

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib" / "pacs.service"
DASHBOARD = json.loads((ROOT / "contrib" / "grafana" / "pacs.json").read_text())
WORDS_OF_PROMQL = {"sum", "by", "rate", "increase", "histogram_quantile", "label_values", "le", "job"}


def settings_of_the_unit():
    """Return the settings of the unit by name; of a repeated one the last."""
    pairs = (line.partition("=") for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    return {name: value for name, _, value in pairs}


def test_the_unit_fits_the_notifications_and_times_of_the_server():
    """Ready, reload, watchdog; a stop timeout longer than the drain time; signals to the main process."""
    settings, config = settings_of_the_unit(), load(ROOT / "config.toml", {})
    assert (settings["Type"], settings["NotifyAccess"], settings["KillMode"]) == ("notify", "main", "mixed")
    assert settings["ExecReload"].endswith("kill -HUP $MAINPID")
    assert float(settings["WatchdogSec"]) > 0
    assert float(settings["TimeoutStopSec"]) > config.limits.drain_seconds
    assert settings["StateDirectory"] == "pacs"
    assert settings["ProtectSystem"] == "strict"


def test_the_keys_and_options_in_the_unit_exist():
    """Its keys put the data where the unit may write, and its command exists."""
    settings = settings_of_the_unit()
    asked = dict(re.findall(r'(database\.url|files\.url) = "([^"]+)"', UNIT.read_text()))
    config = load(None, {}, asked)
    assert config.database.url == "sqlite:////var/lib/pacs/pacs.db"
    assert config.files.url == "/var/lib/pacs/files"
    assert settings["ExecStart"].split()[1:] == ["serve", "--config", "/etc/pacs/config.toml"]


def test_systemd_accepts_the_unit(tmp_path):
    """`systemd-analyze verify`, with an existing command."""
    program = shutil.which("systemd-analyze")
    if program is None:
        missing("systemd-analyze")
    unit = tmp_path / "pacs.service"
    unit.write_text(UNIT.read_text().replace("/opt/pacs/bin/pacs", shutil.which("true")))
    ran = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in ran.stderr.splitlines() if "pacs.service" in line]
    assert (ran.returncode, complaints) == (0, []), ran.stderr


def exposed(text):
    """Yield the names of all possible samples, including those of families without any."""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split()
            yield from (
                f"{family}{ending}" for ending in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
            )


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return the names of the metrics of a running archive."""
    settings = {"web.enabled": True, "web.port": 0}
    with serving(tmp_path_factory.mktemp("pacs"), settings) as archive:
        return set(exposed(get(archive.web_port, "/metrics")[2]))


EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_uses_existing_metrics_only(names, expression):
    """Each name outside of braces and brackets is a metric, a function, or a label to sum by."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", expression)
    asked = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS_OF_PROMQL
    assert asked
    assert asked <= names


def test_the_dashboard_shows_every_counter(names):
    """A new counter needs a panel."""
    shown = set(re.findall(r"pacs_[a-z_]+", " ".join(EXPRESSIONS)))
    counted = {name for name in names if name.startswith("pacs_") and name.endswith("_total")}
    assert counted <= shown


def test_the_panels_do_not_overlap():
    """On the grid of 24 columns."""
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_prometheus_scrapes_the_default_port():
    """The default of `web.port`."""
    (job,) = yaml.safe_load((ROOT / "contrib" / "prometheus.yml").read_text())["scrape_configs"]
    config = load(ROOT / "config.toml", {})
    assert job["static_configs"] == [{"targets": [f"{config.web.host}:{config.web.port}"]}]
    assert config.metrics.enabled
