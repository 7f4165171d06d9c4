"""Keys grow, whatever the wall clock does: within a process, over processes, and over starts (decision 72)."""

import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pacs.files import object_keys
from pacs.files.layout import KEY, hour
from pacs.files.local import LocalFiles
from pacs.files.object_keys import KeyClock, ObjectKeys
from tests.files.test_store import put

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOON = int(datetime(2026, 11, 21, 12, 30, tzinfo=UTC).timestamp()) * 1000
JUMPS = [HOUR, -HOUR, -26 * HOUR, 370 * DAY, -370 * DAY, -50_000 * DAY]
NAME = "01990f3c-0000-7000-8000-000000000001.dcm"


@dataclass
class Clocks:
    """The clocks of a machine, in milliseconds; only the wall clock can be turned."""

    wall: int = NOON
    boot: int = 5 * DAY

    def run(self, milliseconds: int) -> None:
        """Let time pass."""
        self.wall += milliseconds
        self.boot += milliseconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks that keys are drawn by."""
    made = Clocks()
    monkeypatch.setattr(object_keys, "wall_clock", lambda: made.wall)
    monkeypatch.setattr(object_keys, "since_boot", lambda: made.boot)
    return made


def grow(keys: list[str]) -> bool:
    """Whether these are keys and each is larger than the one before."""
    return all(map(KEY.fullmatch, keys)) and all(one < other for one, other in pairwise(keys))


def test_a_key_has_the_hour_and_a_uuid_of_version_7(clocks: Clocks):
    """Version and variant are those of RFC 9562, the first 48 bits are milliseconds; the hour is that of UTC."""
    key = ObjectKeys(KeyClock.after("")).draw()
    assert key.startswith("2026/11/21/12/")
    name = uuid.UUID(Path(key).stem)
    assert (name.version, name.variant) == (7, uuid.RFC_4122)
    assert name.int >> 80 == NOON


@pytest.mark.parametrize("jump", JUMPS)
def test_keys_grow_whatever_the_wall_clock_does(clocks: Clocks, jump: int):
    """Thousands in one millisecond, before and after a jump; an hour later they have the next hour."""
    keys = ObjectKeys(KeyClock.after(""))
    drawn = [keys.draw() for _ in range(10_000)]
    clocks.wall += jump
    drawn += [keys.draw() for _ in range(10)]
    clocks.run(HOUR)
    drawn.append(keys.draw())
    assert grow(drawn)
    assert drawn[-1].startswith("2026/11/21/13/")


@pytest.mark.parametrize("jump", JUMPS)
def test_keys_grow_over_starts_of_the_server(tmp_path: Path, clocks: Clocks, jump: int):
    """Each start finds the newest key; the machine was started anew meanwhile."""
    keys = []
    for _ in range(3):
        with closing(LocalFiles(tmp_path)) as files:
            files.start()
            keys += [put(files, b"x"), put(files, b"y")]
        clocks.wall += jump
        clocks.boot = 7
    assert grow(keys)


def test_a_clock_that_is_set_right_is_followed_by_the_next_start(tmp_path: Path, clocks: Clocks):
    """A machine without a battery starts in 1970, and learns the time later."""
    clocks.wall = 0
    early, late = (LocalFiles(tmp_path) for _ in range(2))
    keys = [put(early, b"x")]
    clocks.wall = NOON
    keys += [put(early, b"x"), put(late, b"x")]
    assert [key[:13] for key in keys] == ["1970/01/01/00", "1970/01/01/00", "2026/11/21/12"]


def test_workers_draw_keys_by_the_clock_of_their_supervisor(tmp_path: Path, clocks: Clocks):
    """A worker that starts after the wall clock was turned forward is not ahead of the others."""
    supervisor, first, second = (LocalFiles(tmp_path) for _ in range(3))
    supervisor.start()
    first.join(supervisor)
    clocks.wall += 370 * DAY
    second.join(supervisor)
    keys = []
    for files in (second, first) * 3:
        clocks.run(SECOND)
        keys.append(put(files, b"x"))
    for files in (first, second, supervisor):
        files.close()
    assert grow(keys)


@pytest.mark.parametrize(
    "newest",
    [
        f"2026/11/21/13/{NAME}",  # its UUID is of an earlier hour
        "2026/11/21/12/ffffffff-ffff-4fff-bfff-ffffffffffff.dcm",  # and of a later one
        "2026/11/21/12/019aa690-0f80-7fff-bfff-ffffffffffff.dcm",
        f"9998/12/31/23/{NAME}",
        "9999/12/31/23/e677d21f-dbff-7fff-bfff-ffffffffffff.dcm",  # the last millisecond of that year
        "9999/12/31/23/e677d221-629f-7fff-bfff-ffffffffffff.dcm",
    ],
)
def test_a_new_key_is_larger_than_any_newest_one(clocks: Clocks, newest: str):
    """Whatever hour and UUID it has; up to the end of the year 9999, behind which there is no hour."""
    keys = ObjectKeys(KeyClock.after(newest))
    drawn = [newest]
    for _ in range(3):
        drawn += [keys.draw(), keys.draw()]
        clocks.run(HOUR)
    assert grow(drawn)


def test_no_clock_makes_an_invalid_key(clocks: Clocks):
    """Before 1970, after 9999, and after the last UUID."""
    for wall in (-DAY, 400_000_000_000_000, 1 << 62):
        clocks.wall = wall
        keys = ObjectKeys(KeyClock.after(""))
        assert all(KEY.fullmatch(keys.draw()) for _ in range(3))


def test_the_newest_key_is_found_among_empty_folders_and_foreign_files(tmp_path: Path):
    """Empty hours, files and folders of others, links, and hours that do not exist are ignored."""
    files = LocalFiles(tmp_path)
    assert files.newest_key() == ""
    key = f"2026/11/21/12/{NAME}"
    for name in (key, f"2026/11/21/11/f{NAME[1:]}", f"2026/11/21/12/0{NAME[1:]}", f"2026/13/32/25/{NAME}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("2026/11/21/12/notes.txt", "2026/11/21/12/z.dcm", "2026/12", "3000", "99999"):
        (tmp_path / name).write_bytes(b"x") if "." in name else (tmp_path / name).touch()
    for name in ("2026/11/21/13", "2026/11/30", "2027/01/01/00", "20260/01/01/01", "9999", "quarantine/9999/01/01/01"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "20260/01/01/01" / NAME).write_bytes(b"x")
    (tmp_path / "8000").symlink_to(tmp_path / "2026")
    assert files.newest_key() == key


def test_the_newest_key_is_the_last_of_all_keys(tmp_path: Path):
    """Of any set of hours."""
    chance = random.Random(72)
    for number in range(200):
        moment = datetime.fromtimestamp(chance.randrange(NOON // 1000), UTC)
        folder = tmp_path / hour(moment)
        folder.mkdir(parents=True, exist_ok=True)
        if chance.random() < 0.5:
            (folder / f"{uuid.UUID(int=chance.getrandbits(128))}.dcm").write_bytes(b"%d" % number)
    files = LocalFiles(tmp_path)
    assert files.newest_key() == list(files.keys())[-1]


def test_keys_since_a_key_leave_out_earlier_hours(tmp_path: Path, clocks: Clocks):
    """Those of its own hour are there, earlier ones too."""
    files = LocalFiles(tmp_path)
    keys = []
    for step in (0, HOUR, SECOND, HOUR, 40 * DAY, 400 * DAY):
        clocks.run(step)
        keys.append(put(files, b"x"))
    assert list(files.keys(since=keys[2])) == keys[1:]
    assert list(files.keys()) == keys


DRAW = """
import json, sys
from pathlib import Path
from pacs.files.local import LocalFiles
from tests.files.test_store import put
print(json.dumps(put(LocalFiles(Path(sys.argv[1])), b"x")))
"""


def test_processes_one_after_the_other_draw_growing_keys(tmp_path: Path):
    """By the real clocks: `pacs import` several times, and this process."""

    def elsewhere() -> str:
        command = [sys.executable, "-c", DRAW, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)

    here: Callable[[], str] = lambda: put(LocalFiles(tmp_path), b"x")  # noqa: E731
    assert grow([draw() for draw in (elsewhere, here, elsewhere, here)])
