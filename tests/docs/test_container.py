"""The container image and the compose file. The tests read and lint them; no container engine is needed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pacs.config import load
from tests.programs import missing

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = [line.strip() for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()]


def environment_of_the_image():
    """Return the variables of the last ENV instruction."""
    (env,) = (line for line in INSTRUCTIONS if line.startswith("ENV "))
    return dict(pair.split("=", 1) for pair in env.split()[1:])


def test_hadolint_accepts_the_dockerfile():
    """With all rules."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        missing("hadolint")
    ran = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("line", ["USER 10001:10001", "VOLUME /data", "STOPSIGNAL SIGTERM", 'CMD ["serve"]'])
def test_the_image_runs_as_an_unprivileged_user_and_stops_on_sigterm(line):
    """The compose file and Kubernetes manifests rely on this."""
    assert line in INSTRUCTIONS


def test_the_health_check_sends_a_c_echo():
    """A running process is not enough."""
    (line,) = (line for line in INSTRUCTIONS if line.startswith("HEALTHCHECK"))
    assert line.endswith('CMD ["pacs", "check", "--live"]')


def test_dockerignore_admits_exactly_what_the_image_copies():
    """Data and secrets stay out of the build."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for line in INSTRUCTIONS if line.startswith("COPY") and "--from" not in line]
    copied = {source for sources in copies for source in sources}
    assert copied == allowed
    assert all((ROOT / each).exists() for each in allowed)


def test_the_image_and_the_compose_file_are_a_valid_configuration(tmp_path):
    """It listens on all addresses of the container, and keeps its data in the volume."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (service,) = compose["services"].values()
    file = tmp_path / "config.toml"
    file.touch()
    config = load(file, environment_of_the_image() | service["environment"])
    assert config.server.host == config.web.host == "0.0.0.0"
    assert config.database.url == "sqlite:////data/pacs.db"
    assert config.files.url == "/data/files"
    assert service["volumes"] == ["data:/data"]
    assert set(compose["volumes"]) == {"data"}


def test_the_compose_file_publishes_to_this_machine_only():
    """The ports are those of the server, and the grace period is longer than its drain time."""
    (service,) = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    config = load(ROOT / "config.toml", {})
    ports = (config.server.port, config.web.port)
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    (exposed,) = (line for line in INSTRUCTIONS if line.startswith("EXPOSE "))
    assert tuple(map(int, exposed.split()[1:])) == ports
    assert float(service["stop_grace_period"].removesuffix("s")) > config.limits.drain_seconds
