"""`serkit serve` under a systemd of the test's own, and what it does about every trouble it is to survive."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serkit.benchmarks.reconnect import AudioServer, children
from serkit.edge.errors import MissingExtraError

pytestmark = [
    pytest.mark.slow,  # it waits on the clock, which means nothing under an emulator
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]

WATCHDOG_S = 30.0  # as in the unit

#: The service with a microphone that hears noise, and an engine that hangs when told to.
DRIVER = """
import os, sys, time
from serkit.edge import engine, microphone

NOISE = '''
import json, os, random, struct, sys, time
from serkit.edge.capture import AUDIO, OPENED, Message
def say(kind, payload):
    os.write(1, Message(kind, payload, time.monotonic()).pack())
say(OPENED, json.dumps({"name": "Fake", "rate": 16000}).encode())
noise = struct.pack("<1600f", *(random.gauss(0, 0.1) for _ in range(1600)))
started, n, leak = time.monotonic(), 0, []
while True:
    n += 1
    time.sleep(max(0, started + 0.1 * n - time.monotonic()))
    if os.path.exists(sys.argv[1] + "/leak"):
        leak.append(os.urandom(1 << 20))
    say(AUDIO, noise)
'''
microphone._command = lambda rate, device: [sys.executable, "-c", NOISE, os.getcwd()]
logits = engine.Engine.logits
def hanging(*arguments):
    while os.path.exists("hang"):
        time.sleep(0.05)
    return logits(*arguments)
engine.Engine.logits = hanging
from serkit.edge.cli import main
main(["serve", *sys.argv[1:]])
"""
BY_LEVEL = "[vad]\ndetector = 'level'\nrise_db = 0\n"


class Systemd:
    """Keeps one service running as the unit says: waits for READY, and ends and restarts it when its heart stops."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self._command = command
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(0.05)
        (folder / "run").mkdir()
        self._env = os.environ | {"NOTIFY_SOCKET": str(folder / "notify"), "RUNTIME_DIRECTORY": str(folder / "run")}
        self._env |= env or {}
        self.states: list[tuple[float, str]] = []
        self.restarts = 0
        self.watchdog_s = WATCHDOG_S
        self.events = folder / "events"
        self._start()

    def _start(self) -> None:
        with self.events.open("ab") as out, (self.folder / "journal").open("ab") as journal:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=journal
            )
        self.ready = False
        self._beat_s = time.monotonic()

    def journal(self) -> str:
        return (self.folder / "journal").read_text()

    def _turn(self) -> None:
        try:
            message = self._socket.recv(4096).decode()
        except (TimeoutError, BlockingIOError):  # some virtual machines' poll gives up with EAGAIN
            pass
        else:
            self.states += [(time.monotonic(), line) for line in message.splitlines()]
            self.ready = self.ready or "READY=1" in message
            self._beat_s = time.monotonic()
        if self.ready and time.monotonic() - self._beat_s > self.watchdog_s:
            self.process.send_signal(signal.SIGABRT)
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process.poll() is not None:
            self.restarts += 1
            self._start()

    def until(self, done: Callable[[], object], seconds: float = 90) -> None:
        end_s = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end_s, f"waited in vain; the journal says\n{self.journal()}"
            self._turn()

    def count(self, state: str) -> int:
        return sum(text == state for _, text in self.states)

    def beats(self, n: int = 2) -> None:
        """Wait for so many windows."""
        before = self.count("WATCHDOG=1")
        self.until(lambda: self.ready and self.count("WATCHDOG=1") >= before + n)

    def says(self, text: str, since: int = 0) -> None:
        self.until(lambda: text in self.journal()[since:])

    def reload(self) -> None:
        """As ``systemctl reload`` does, until it is ready again."""
        before = self.count("READY=1")
        self.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.count("READY=1") > before)

    def bites(self) -> None:
        """Wait until the watchdog had to restart it; with less patience, for the sake of the test."""
        restarts, self.watchdog_s = self.restarts, 3.0
        self.until(lambda: self.restarts > restarts)
        self.watchdog_s = WATCHDOG_S

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._socket.setblocking(False)
        try:
            while True:
                self.states += [(time.monotonic(), line) for line in self._socket.recv(4096).decode().splitlines()]
        except BlockingIOError:
            return code

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()

    def capture(self) -> int:
        """The capture process."""
        self.until(lambda: children(self.process.pid))
        (pid,) = children(self.process.pid)
        return pid


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """One service for the tests below, whichever of them comes first on its worker."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "driver.py").write_text(DRIVER)
    (folder / "serkit.toml").write_text(BY_LEVEL)
    systemd = Systemd(folder, [sys.executable, "driver.py", "--config", "serkit.toml"])
    try:
        systemd.beats()  # systemd reloads nothing that is not ready, either
        yield systemd
    finally:
        systemd.end()


def test_it_is_ready_when_a_window_was_scored(systemd: Systemd) -> None:
    systemd.beats()
    order = [text for _, text in systemd.states]
    assert order[0] == "STATUS=loading the model"
    assert order.index("READY=1") < order.index("WATCHDOG=1")
    assert any(re.fullmatch(r"STATUS=serkit-dynamic \(dynamic, .*\) listens", text) for text in order)
    assert systemd.events.read_text().count('"kind": "') >= 1
    assert '"probabilities": {' in systemd.events.read_text().splitlines()[0]
    assert (systemd.folder / "run" / "pid").read_text() == f"{systemd.process.pid}\n"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGKILL, "microphone 'Fake' lost (the capture process ended (Killed)); trying again"),
        (signal.SIGSTOP, "microphone 'Fake' lost (the sound system does not answer (4 s); restart it); trying again"),
    ],
)
def test_a_capture_process_that_ends_or_stops_is_replaced(systemd: Systemd, number: int, why: str) -> None:
    systemd.beats()
    since, restarts, pid = len(systemd.journal()), systemd.restarts, systemd.capture()
    os.kill(pid, number)
    systemd.says(why, since)
    systemd.says("microphone 'Fake' is back after ", since)
    systemd.beats()
    assert systemd.restarts == restarts
    assert systemd.capture() != pid


def test_a_capture_process_out_of_memory_is_replaced(systemd: Systemd) -> None:
    group = Path("/sys/fs/cgroup/memory") / f"serkit-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(8 << 20))
    except OSError as error:
        pytest.skip(f"needs root and a memory controller (cgroup v1): {error}")
    try:
        systemd.beats()
        since, restarts, pid = len(systemd.journal()), systemd.restarts, systemd.capture()
        (group / "tasks").write_text(str(pid))
        (systemd.folder / "leak").touch()
        systemd.says("microphone 'Fake' lost (the capture process ended (Killed)); trying again", since)
        (systemd.folder / "leak").unlink()
        systemd.says("microphone 'Fake' is back after ", since)
        systemd.beats()
        assert systemd.restarts == restarts
    finally:
        (systemd.folder / "leak").unlink(missing_ok=True)
        group.rmdir()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[vad]\nthreshhold = 1", "serkit.toml: vad: unknown setting 'threshhold'; known: "),
        ("model = 'gone'", "no model 'gone'; give a .tflite file or one of: default, "),
        ("[json_lines]\npath = '/nonesuch/events'", "/nonesuch/events cannot be written (No such file or directory)"),
    ],
)
def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(systemd: Systemd, text: str, why: str) -> None:
    systemd.beats()
    since, restarts = len(systemd.journal()), systemd.restarts
    (systemd.folder / "serkit.toml").write_text(text)
    try:
        systemd.reload()
    finally:
        (systemd.folder / "serkit.toml").write_text(BY_LEVEL)
    (line,) = [line for line in systemd.journal()[since:].splitlines() if "refused" in line]
    assert line.startswith("serkit: the new configuration is refused and the old one stays: ")
    assert why in line
    systemd.beats()
    assert systemd.restarts == restarts
    states = [text for _, text in systemd.states]
    after = states[len(states) - 1 - states[::-1].index("RELOADING=1") :]
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", after[1])
    assert after.index("READY=1") > 1


def test_a_full_and_a_read_only_disk_are_waited_for(systemd: Systemd) -> None:
    disk = systemd.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "disk", disk], capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    events = disk / "events.jsonl"
    try:
        (systemd.folder / "serkit.toml").write_text(f"{BY_LEVEL}[json_lines]\npath = '{events}'\n")
        systemd.reload()
        systemd.says("the configuration was read again")
        systemd.until(lambda: events.stat().st_size)
        restarts = systemd.restarts
        for trouble, why, cure in (
            (lambda: fill(disk / "other"), "No space left on device", (disk / "other").unlink),
            (lambda: remount(disk, "ro"), "Read-only file system", lambda: remount(disk, "rw")),
        ):
            since = len(systemd.journal())
            trouble()
            systemd.says(f"serkit: json_lines: {events} cannot be written ({why}); the newest 2000 events wait", since)
            if why.startswith("Read"):  # and one that starts now is no less patient
                systemd.reload()
            systemd.beats()
            size = events.stat().st_size
            cure()
            systemd.until(lambda size=size: events.stat().st_size > size)
        assert systemd.restarts == restarts
    finally:
        (systemd.folder / "serkit.toml").write_text(BY_LEVEL)
        systemd.process.send_signal(signal.SIGHUP)
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            return


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def test_an_engine_that_hangs_is_found_by_the_watchdog(systemd: Systemd) -> None:
    systemd.beats()
    since = len(systemd.journal())
    hang = systemd.folder / "hang"
    hang.touch()
    try:
        systemd.bites()
    finally:
        hang.unlink()
    assert "Fatal Python error: Aborted" in systemd.journal()[since:]
    assert "in hanging" in systemd.journal()[since:]  # says where
    systemd.beats()


def test_a_process_that_is_stopped_is_restarted_and_still_mute(systemd: Systemd) -> None:
    systemd.beats()
    since = len(systemd.journal())
    systemd.process.send_signal(signal.SIGUSR1)
    systemd.says("serkit: muted", since)
    systemd.process.send_signal(signal.SIGSTOP)
    systemd.bites()
    since = len(systemd.journal())
    systemd.says("serkit: muted", since)
    systemd.beats()
    assert '"message": "muted"' in systemd.events.read_text().splitlines()[-1]


def test_it_stops_in_order(systemd: Systemd) -> None:
    systemd.beats()
    pid = systemd.capture()
    assert systemd.stop() == 0
    assert systemd.count("STOPPING=1") == 1
    assert [text for _, text in systemd.states][-1] != "WATCHDOG=1"
    assert not Path(f"/proc/{pid}").exists()
    assert not (systemd.folder / "run" / "pid").exists()


JUMPING = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* The time of day jumps by two days every second; the monotonic clock is as it is. */
int clock_gettime(clockid_t id, struct timespec *t) {
    int result = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME && !result) {
        struct timespec now;
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
        t->tv_sec += now.tv_sec % 2 ? 86400 : -86400;
    }
    return result;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return out ? *out = t.tv_sec : t.tv_sec;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    out->tv_sec = t.tv_sec;
    out->tv_usec = t.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 waits for locks by the time of day")
def test_a_clock_that_jumps_does_not_matter(tmp_path: Path) -> None:
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("needs a C compiler, to make the clock jump")
    try:
        server = AudioServer(tmp_path)
    except MissingExtraError as error:
        pytest.skip(str(error))
    (tmp_path / "jumping.c").write_text(JUMPING)
    library = tmp_path / "jumping.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "jumping.c"], check=True)
    env = server.env | {"LD_PRELOAD": str(library)}
    code = "import time; a = time.time(); time.sleep(1); print(abs(time.time() - a - 1) > 1e5)"
    jumps = subprocess.run([sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True)
    assert jumps.stdout == "True\n", jumps.stderr
    with server:
        systemd = Systemd(tmp_path, [sys.executable, "-m", "serkit.edge", "serve"], env)
        try:
            systemd.beats(5)
            os.kill(systemd.capture(), signal.SIGKILL)
            systemd.says("lost (the capture process ended (Killed)); trying again")
            systemd.says(" is back after ")
            systemd.beats(5)
            assert systemd.restarts == 0
            beats = [s for s, text in systemd.states if text == "WATCHDOG=1"]
            assert max(np.diff(beats)) < WATCHDOG_S / 2
            assert systemd.stop() == 0
        finally:
            systemd.end()
