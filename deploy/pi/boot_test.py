"""Boot an image in QEMU and see whether it listens.

    python3 boot_test.py virt IMAGE      sound and events, power cuts while models are installed
    python3 boot_test.py raspi3b IMAGE   a Raspberry Pi 3, without sound: READY and nothing failed

The image starts as it is on a card: its own kernel, initramfs and command line from its boot partition, with one more
console. Its only other change is what an owner makes: serkit.txt, with a key by which this program logs in. Time is
counted in instructions, one nanosecond each (`-icount shift=0`), so that the guest hears in real time however busy
this machine is; `--wall-clock` takes the machine's time instead.

Needs qemu-system-arm, mtools, e2fsprogs, openssh-client and, for the answers to compare with, serkit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Array = npt.NDArray[np.float64]

BOOT = 4 << 20  # where the boot partition begins, bytes
READY = r"Started .*serkit\.service"
STATUS = r"serkit: started in (\d+) s; system (.*); serkit\.service (\w+)"
PRESET = "driver"
CLIP = Path(__file__).parents[2] / "edge" / "demo" / "clip.flac"
TIMEOUT_S = 3600.0  # a busy machine is no failure


# Installs the two models that come with serkit in turns, as `serkit update` does once it has tested one.
INSTALLS = """
from itertools import cycle
from pathlib import Path
import serkit.edge
from serkit.edge.bundle import read_bundle
from serkit.edge.store import ModelStore

store = ModelStore("/var/lib/serkit/models")
models = [Path(serkit.edge.__file__).parent / f"models/serkit-{kind}.tflite" for kind in ("int8", "dynamic")]
bundles = [(read_bundle(m), Path(f"{m}.minisig").read_text()) for m in models]
for bundle, signature in cycle(bundles):
    with store.updating():
        store.install(bundle, signature)
"""


class Failure(Exception):
    """The image does not do what it should."""


def say(text: str) -> None:
    print(f"boot-test: {text}", flush=True)


class Card:
    """A copy of an image, as long as the card it is written to."""

    def __init__(self, image: Path, folder: Path, size: int = 1 << 30) -> None:
        self.folder = folder
        self.path = folder / "card.img"
        subprocess.run(["cp", "--sparse=always", image, self.path], check=True)
        os.truncate(self.path, size)

    def read(self, name: str) -> Path:
        """A file of the boot partition, copied."""
        target = self.folder / name
        subprocess.run(["mcopy", "-n", "-o", "-i", f"{self.path}@@{BOOT}", f"::{name}", target], check=True)
        return target

    def configure(self, **settings: str) -> None:
        """Fill in serkit.txt."""
        file = self.read("serkit.txt")
        text = file.read_text()
        for name, value in settings.items():
            text, n = re.subn(rf"^{name} =$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert n == 1, name
        file.write_text(text)
        subprocess.run(["mcopy", "-o", "-i", f"{self.path}@@{BOOT}", file, "::serkit.txt"], check=True)

    def kernel(self) -> tuple[Path, Path]:
        """The kernel and its initramfs."""
        config = self.read("config.txt").read_text()
        names = [re.search(pattern, config, re.MULTILINE) for pattern in (r"^kernel=(.*)", r"^initramfs (\S+)")]
        if None in names:
            raise Failure("config.txt names no kernel or no initramfs")
        kernel, initramfs = (self.read(match[1].strip()) for match in names if match)
        return kernel, initramfs

    def copy_partition(self, number: int, target: Path) -> None:
        """One partition as a file."""
        begin, size = self.partition(number)
        source = [f"if={self.path}", f"skip={begin >> 20}", f"count={size >> 20}"]
        subprocess.run(["dd", *source, f"of={target}", "bs=1M", "conv=sparse", "status=none"], check=True)

    def partition(self, number: int) -> tuple[int, int]:
        """Where it begins and how long it is, bytes."""
        table = json.loads(subprocess.run(["sfdisk", "--json", self.path], capture_output=True, check=True).stdout)
        entry = table["partitiontable"]["partitions"][number - 1]
        return entry["start"] * 512, entry["size"] * 512


class Machine:
    """A running guest: its console, and a shell by ssh."""

    def __init__(self, kind: str, card: Card, key: Path, *, wall_clock: bool = False) -> None:
        kernel, initramfs = card.kernel()
        console = {"virt": "ttyAMA0", "raspi3b": "ttyS1,115200"}[kind]
        words = card.read("cmdline.txt").read_text().split()
        words = [w for w in words if not w.startswith("console=")]
        words += [f"console={console}", "systemd.status_unit_format=combined", "modules_load=snd_aloop"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        machine = {
            "virt": ["-M", "virt", "-cpu", "cortex-a72", "-m", "1024", "-serial", "stdio"],
            "raspi3b": ["-M", "raspi3b", "-serial", "null", "-serial", "stdio"],
        }[kind]
        disk = {"virt": "if=virtio", "raspi3b": "if=sd"}[kind]
        if kind == "virt":
            machine += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        else:
            machine += ["-dtb", str(card.read("bcm2837-rpi-3-b.dtb"))]
            words += ["maxcpus=1"]  # the others would only slow the emulation down
        command = [
            "qemu-system-aarch64",
            *machine,
            *([] if wall_clock else ["-icount", "shift=0"]),
            *["-kernel", str(kernel), "-initrd", str(initramfs), "-append", " ".join(words)],
            *["-drive", f"file={card.path},format=raw,{disk},cache=writethrough"],
            *["-display", "none", "-monitor", "none", "-no-reboot"],
        ]
        self._key = key
        self._text = ""
        self._heard = threading.Condition()
        self._log = (card.folder / "console.log").open("ab")
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 4096):
            self._log.write(data)
            self._log.flush()
            with self._heard:
                self._text += re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", data.decode(errors="replace"))
                self._heard.notify_all()

    def wait(self, pattern: str) -> re.Match[str]:
        """What the console says once it fits.

        Raises:
            Failure: The guest ended or panicked, or an hour passed.
        """
        until = time.monotonic() + TIMEOUT_S
        with self._heard:
            while not (match := re.search(pattern, self._text)):
                problem = None
                if re.search(r"Kernel panic|emergency mode", self._text):
                    problem = "panicked"
                elif self.process.poll() is not None:
                    problem = "ended"
                elif time.monotonic() > until:
                    problem = "took too long"
                if problem:
                    raise Failure(f"the guest {problem} before {pattern!r}:\n{self._text[-3000:]}")
                self._heard.wait(5)
        return match

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    def ssh(self, command: str, data: bytes | None = None) -> str:
        """Run a command as root; a busy machine needs several tries to connect."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=300", "LogLevel=ERROR"]
        arguments = [word for option in options for word in ("-o", option)]
        line = ["ssh", *arguments, "-i", str(self._key), "-p", str(self.port), "root@127.0.0.1", command]
        for _ in range(5):
            done = subprocess.run(line, input=data, capture_output=True, timeout=TIMEOUT_S)
            if done.returncode != 255:
                break
            time.sleep(5)
        if done.returncode:
            raise Failure(f"`{command}` ended with {done.returncode}: {done.stderr.decode()}{done.stdout.decode()}")
        return done.stdout.decode()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing happens in the guest, nor on its disk: for the disk, a power cut that can be taken back."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Cut its power, if it is still on."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def booted(machine: Machine) -> None:
    """Wait until the system is up; everything has to be well."""
    machine.wait(READY)
    ready_s = machine.elapsed_s()
    status = machine.wait(STATUS)
    say(f"READY after {status[1]} s of the guest's time, {ready_s:.0f} s of this machine's; system {status[2]}")
    if (status[2], status[3]) != ("running", "active"):
        raise Failure(f"something failed: {status[0]}")


def answers(lines: str) -> list[str]:
    """The emotions in lines of events, in order, each once."""
    found: list[str] = []
    for line in lines.splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            if event["kind"] == "emotion" and found[-1:] != [event["emotion"]]:
                found.append(event["emotion"])
    return found


def expected_answers(samples: Array, rate: int) -> set[str]:
    """What the clip is heard as, by where in it windows begin: in the device nobody knows."""
    from serkit.edge.audio import FakeSource
    from serkit.edge.config import read_config
    from serkit.edge.events import to_json
    from serkit.edge.listener import listen

    found = set()
    for step in range(24):  # of 20 ms: a hop of 0.48 s
        clip = np.concatenate([np.zeros(int((3 + 0.02 * step) * rate)), samples, np.zeros(3 * rate)])
        with listen(partial(FakeSource, clip, source_rate=rate), config=read_config(None, PRESET)) as listener:
            found.add(" ".join(answers("\n".join(map(to_json, listener)))))
    return found


def heard(machine: Machine, folder: Path) -> None:
    """Play the demo clip into the loopback's other end; the service has to answer as it does to the file."""
    params = machine.ssh("cat /proc/asound/Loopback/pcm1c/sub0/hw_params")
    match = re.search(r"^rate: (\d+)", params, re.MULTILINE)
    if match is None:
        raise Failure(f"the service does not listen to the loopback: {params}")
    samples, rate = soundfile.read(CLIP)  # resampled here, for ALSA would do it badly
    soundfile.write(folder / "clip.wav", soxr.resample(samples, rate, int(match[1])), int(match[1]), subtype="PCM_16")
    since = machine.ssh("date +%s").strip()
    machine.ssh("aplay -q -D plughw:Loopback,0,0 - && sleep 3", (folder / "clip.wav").read_bytes())
    journal = machine.ssh(f"journalctl -u serkit -o cat --since @{since}")
    (folder / "journal.txt").write_text(journal)
    found, expected = " ".join(answers(journal)), expected_answers(samples, rate)
    say(f"played the demo clip into the loopback: heard {found!r}; from the file {' or '.join(map(repr, expected))}")
    if found not in expected:
        raise Failure("the device hears something else")


def updated(machine: Machine, model: Path) -> None:
    """`serkit update` with the service running: tested, on trial, accepted."""
    for file in (model, Path(f"{model}.minisig")):
        machine.ssh(f"cat >/tmp/{file.name}", file.read_bytes())
    said = machine.ssh(f"serkit update /tmp/{model.name} --wait 600").splitlines()
    say(f"serkit update: {'; '.join(said)}")
    if said[-1] != "accepted by the service":
        raise Failure("the service does not accept the model")


def survives(machine: Machine, card: Card, cuts: int, seed: int) -> None:
    """Look at the data partition as power cuts at random moments of installations would leave it.

    The guest is stopped, its disk copied, and it goes on: what is copied is what a cut would have left, but for writes
    that the disk itself had not finished. Each copy is repaired as at a start, and its store has to have one of the two
    models, whole.
    """
    from serkit.edge.bundle import read_bundle
    from serkit.edge.signature import trusted_keys
    from serkit.edge.store import ModelStore
    from serkit.edge.stream import Recognizer, predict

    chance = random.Random(seed)
    machine.ssh("cat >/tmp/installs.py", INSTALLS.encode())
    machine.ssh("systemd-run --quiet --unit=installs /opt/serkit/bin/python3 /tmp/installs.py")
    machine.ssh("until [ /var/lib/serkit/models/state.json -nt /tmp/installs.py ]; do sleep 1; done")
    copies = []
    for number in range(cuts):
        time.sleep(chance.uniform(0.2, 5))
        copies.append(card.folder / f"cut-{number}.ext4")
        with machine.frozen():
            card.copy_partition(3, copies[-1])
    machine.end()
    found: dict[str, int] = {}
    recovered = 0
    for copy in copies:
        checked = subprocess.run(["e2fsck", "-p", copy], capture_output=True, text=True)
        if checked.returncode >= 4:
            raise Failure(f"{copy}: beyond repair: {checked.stdout}")
        recovered += "recovering journal" in checked.stdout
        state = copy.with_suffix("")
        state.mkdir()
        subprocess.run(["debugfs", "-R", f"rdump /serkit {state}", copy], check=True, capture_output=True)
        store = ModelStore(state / "serkit" / "models")
        lines = store.begin()
        model = store.active()
        if model is None or any("rolled back" in line for line in lines):
            raise Failure(f"{copy}: no model is left: {lines}")
        bundle = read_bundle(model, trusted_keys(state / "serkit"))
        predict(Recognizer(bundle, "auto", 1), CLIP)
        found[bundle.name] = found.get(bundle.name, 0) + 1
        copy.unlink()
        shutil.rmtree(state)
    counts = ", ".join(f"{n} with {name}" for name, n in sorted(found.items()))
    say(f"{cuts} cuts: {counts}; {recovered} journals recovered; every model whole and answering")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", choices=["virt", "raspi3b"])
    parser.add_argument("image", type=Path)
    parser.add_argument("--wall-clock", action="store_true", help="the machine's time, not counted instructions")
    parser.add_argument("--update", type=Path, metavar="MODEL", help="also install this signed model (virt)")
    parser.add_argument("--cuts", type=int, default=20, help="power cuts (virt)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the cuts")
    parser.add_argument("--keep", type=Path, help="folder for the card and the console's log; otherwise removed")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="boot-test-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        test(options, folder)
    except Failure as failure:
        sys.exit(f"boot-test: {failure}")
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def test(options: argparse.Namespace, folder: Path) -> None:
    key = folder / "key"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    card = Card(options.image, folder)
    public = Path(f"{key}.pub").read_text().strip()
    card.configure(name="boot-test", microphone="hw:0,1", preset=PRESET, ssh_key=public)
    machine = Machine(options.machine, card, key, wall_clock=options.wall_clock)
    try:
        booted(machine)
        if options.machine == "virt":
            begin, size = card.partition(3)
            if begin + size < card.path.stat().st_size - (2 << 20):
                raise Failure(f"the data partition did not grow: {size >> 20} MiB")
            say(f"the data partition has {size >> 20} MiB: the rest of the card")
            heard(machine, folder)
            if options.update is not None:
                updated(machine, options.update)
            survives(machine, card, options.cuts, options.seed)
            machine = Machine(options.machine, card, key, wall_clock=options.wall_clock)
            booted(machine)
            said = machine.ssh("journalctl -u serkit -o cat | grep -E 'on trial|rolled back|answers' || true").strip()
            say(f"after the last cut: {said}")
            if "rolled back" in said or "on trial" not in said:
                raise Failure("the service does not answer with the installed model")
            machine.ssh("systemctl poweroff")
            machine.wait(r"reboot: Power down")
    finally:
        machine.end()
    say("passed")


if __name__ == "__main__":
    main()
