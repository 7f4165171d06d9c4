"""The container image and the compose file. The tests read and lint them; no container engine is needed."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from sqlalchemy import make_url

from pacs.cli import main
from pacs.config import load
from tests.programs import missing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/containers.md").read_text()
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


def test_the_image_copies_what_the_package_is_built_from():
    """The files and folders beside `pacs` that are put into the package; without one the build fails."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {
        each for line in INSTRUCTIONS if line.startswith("COPY") and "--from" not in line for each in line.split()[1:-1]
    }
    assert set(tools["force-include"]) | set(tools["packages"]) <= copied


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


def test_the_compose_file_for_postgresql_adds_a_database(tmp_path):
    """The archive takes its URL from a secret, and starts when the database answers."""
    added = yaml.safe_load((ROOT / "contrib/docker-compose.postgresql.yml").read_text())
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service, database = added["services"]["pacs"], added["services"]["postgres"]
    assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert set(service["secrets"]) | set(database["secrets"]) == set(added["secrets"])
    (secret,), variables = service["secrets"], service["environment"]
    assert variables["PACS_DATABASE__URL_FILE"] == f"/run/secrets/{secret}"
    assert set(added["volumes"]).isdisjoint(base["volumes"])
    (url,) = re.findall(r'echo "(postgresql.+?)" > database-url', PAGE)
    url = url.replace("$(cat postgres-password)", "secret")
    held = tmp_path / secret
    held.write_text(f"{url}\n")
    variables["PACS_DATABASE__URL_FILE"] = str(held)
    merged = environment_of_the_image() | base["services"]["pacs"]["environment"] | variables
    (tmp_path / "config.toml").touch()
    parsed = make_url(load(tmp_path / "config.toml", merged).database.url)
    assert (parsed.host, parsed.database) == ("postgres", database["environment"]["POSTGRES_DB"])
    assert (parsed.username, parsed.password) == (database["environment"]["POSTGRES_USER"], "secret")


def test_the_commands_in_a_container_exist():
    """Each `pacs` command of the page, after `docker compose exec pacs` or `run`, is one of the program."""
    ours = re.findall(r"docker compose exec pacs pacs (.+)|docker compose run --rm pacs (.+)", PAGE)
    assert len(ours) >= 5
    for words in (first or second for first, second in ours):
        command = main
        for word in words.replace("`", " ").split():
            command = command.commands.get(word, command) if isinstance(command, click.Group) else command
        assert command is not main, words
