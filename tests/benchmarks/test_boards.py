from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serkit.benchmarks import sensors
from serkit.benchmarks.board_file import check
from serkit.benchmarks.cost_report import boards, cost_tables
from serkit.benchmarks.report import update_readme
from serkit.edge.cli import main
from serkit.train.machine import machine
from serkit.train.results import read_results

_TIMES = {"median_ms": 20.0, "p95_ms": 25.0, "p99_ms": 40.0}
_LATENCY = {
    "what": "latency", "system": "m", "race": "listening", "way": "streamed", "scene": "talking", "gate": "silero",
    "format": "int8", "engine": "litert", "threads": 1, "peer": False, "trained": True, "n_hops": 300, "hop_ms": 500.0,
    "scored_share": 1.0, **_TIMES, "cpu_ms": 19.0, "core_share": 0.04,
}  # fmt: skip
_STATE = {
    "temperature_c": 61.2,
    "frequency_mhz": [1500, 1500],
    "frequency_max_mhz": 1800,
    "throttling": {"source": "firmware", "raw": "0x50005", "now": ["under-voltage"], "since_start": ["throttled"]},
    "load": 0.3,
}
BOARD: dict[str, Any] = {
    "schema": 1,
    "benchmark": "device",
    "created": "2026-01-31T12:00:00+00:00",
    "commit": None,
    "machine": {
        "board": "Raspberry Pi 4 Model B Rev 1.5", "cpu": "Cortex-A72", "architecture": "aarch64", "cores": 4,
        "memory_mb": 3791, "governor": "ondemand", "temperature_c": 61.2, "load": 0.3, "system": "Linux 6.6.31",
    },
    "versions": {"serkit": "0.1.0", "ai-edge-litert": "2.3.0"},
    "command": "serkit bench device",
    "before": _STATE,
    "after": _STATE,
    "energy": {
        "source": "ina3221", "idle_w": 2.5, "busy_w": 3.5, "n_hops": 100, "seconds": 10.0, "joule_per_hop": 0.1,
    },
    "rows": [
        _LATENCY,
        _LATENCY | {"race": "pipeline", "gate": "none", "ratio_to": "m", "ratio": 1.0, "ratio_wall": 1.0},
        _LATENCY | {"scene": "silent", "core_share": 0.002},
        {"what": "memory", "model": "m", "audio_s": 60.0, "threads": 4, "processes": 1, "rss_kb": 81920,
         "pss_kb": 81920, "anonymous_kb": 40000},
        {"what": "startup", "model": "m", "repeats": 5, **_TIMES, "least_ms": 19.0, "cpu_ms": 18.0},
    ],
}  # fmt: skip


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The file with one value changed, added, or, ``to`` None, removed."""
    file = copy.deepcopy(BOARD)
    inside: Any = file
    for key in path[:-1]:
        inside = inside[key]
    if to is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = to
    return file


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        (changed("machine", "cores", to=None), "machine.cores is missing"),
        (changed("machine", "hostname", to="x"), "machine.hostname is not part of a board's file; leave it out"),
        (changed("machine", "cores", to=True), "machine.cores is True; a whole number is needed"),
        (
            changed("after", "temperature_c", to=612.0),
            "after.temperature_c is 612.0; a number of at most 150 is needed",
        ),
        (changed("after", "frequency_mhz", 1, to="1500"), "after.frequency_mhz[1] is '1500'; a number is needed"),
        (changed("rows", 0, "median_ms", to=float("nan")), "rows[0].median_ms is nan; a number is needed"),
        (changed("rows", 0, "median_ms", to=30.0), "rows[0]: median, p95 and p99 are not in order"),
        (changed("rows", 0, "peer", to=0), "rows[0].peer is 0; true or false is needed"),
        (changed("rows", 4, to=None), "rows has none of startup"),
        (changed("rows", 2, to=None), "rows: m has no latency row, listening and silent"),
        (changed("rows", 0, "what", to=["latency"]), "rows[0].what is ['latency']; latency, memory, startup is needed"),
        (changed("rows", to={}), "rows is {}; a list is needed"),
        (changed("versions", to=[]), "versions is []; a table is needed"),
        (changed("created", to="today"), "created is 'today'; a time such as 2026-01-31T12:00:00+00:00 is needed"),
        (changed("schema", to=2), "schema is 2; a whole number of at most 1 is needed"),
        (changed("command", to="serkit bench device --out /home/a/b.json"), "without a path or an address"),
        (changed("versions", "x", to="someone@example.org"), "without a path or an address"),
    ],
)
def test_every_fault_is_one_line(file: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps(file))
    assert any(fault in line for line in check(path)), check(path)
    result = CliRunner().invoke(main, ["bench", "device", "--check", str(path)])
    assert result.exit_code == 1
    assert all(line.startswith((f"{path}: ", "serkit: ")) for line in result.output.splitlines())


def test_all_faults_are_told_and_no_content_is_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps(BOARD))
    assert check(path) == []
    assert CliRunner().invoke(main, ["bench", "device", "--check", str(path), str(path)]).exit_code == 0
    path.write_text("{}")
    assert len(check(path)) > 8
    for text in ("", "[]", "nonsense", "[" * 100_000, '{"rows": [1, null, {"what": {}}]}', " " * (2 << 20)):
        path.write_text(text)
        assert check(path)
    assert "cannot be read" in check(tmp_path / "missing.json")[0]
    assert CliRunner().invoke(main, ["bench", "device", "--check"]).exit_code == 2
    assert CliRunner().invoke(main, ["bench", "device", str(path)]).exit_code == 2
    assert CliRunner().invoke(main, ["bench", "device", "--check", str(path), "--out", "b.json"]).exit_code == 2


def test_the_committed_boards_are_as_they_should_be() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    for name, file in read_results(results).items():
        if file["benchmark"] == "device":
            assert check(results / f"{name}.json") == []


def test_tables_show_a_board_and_go_between_the_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = boards({"pi": BOARD})[2:]
    assert line == (
        "| Raspberry Pi 4 Model B Rev 1.5 | ondemand | m | litert | 20.0 / 25.0 / 40.0 ms | 4.00% | 0.20% | 80 MB | "
        "20 ms | 61.2 °C | under-voltage | 100.0 mJ |"
    )
    silent = boards({"pi": BOARD | {"energy": None, "after": dict.fromkeys(_STATE)}})[2]
    assert silent.endswith("| not told | not told | not told |")
    assert line in cost_tables({"pi": BOARD})
    monkeypatch.setattr("serkit.benchmarks.report.read_results", lambda: {"pi": BOARD})
    monkeypatch.setattr("serkit.benchmarks.report.tables", lambda: "t")
    monkeypatch.setattr("serkit.benchmarks.report.more_tables", lambda: "m")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    readme = tmp_path / "README.md"
    made = "made by `serkit report --readme` -->"
    readme.write_text(f"a <!-- results: {made}<!-- end of results --> b <!-- boards: {made}x<!-- end of boards --> c")
    update_readme(readme)
    assert line in readme.read_text()
    assert readme.read_text().startswith("a <!-- results")
    assert readme.read_text().endswith("<!-- end of boards --> c")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
    "proc/meminfo": "MemTotal:        3882000 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.25 0.1 0.1 1/100 1\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61250\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
    "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "700000\n",
    "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}
JETSON = {
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "70000\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "50500\n",
    "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device0/cur_state": "1\n",
    "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device1/cur_state": "2\n",
    "sys/class/hwmon/hwmon3/name": "ina3221\n",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon3/in1_input": "5000\n",
    "sys/class/hwmon/hwmon3/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon3/in2_input": "5000\n",
    "sys/class/hwmon/hwmon3/curr2_input": "400\n",
    "sys/class/hwmon/hwmon3/in4_input": "12\n",
    "sys/class/hwmon/hwmon3/curr4_input": "1600\n",
}


def test_a_pi_is_described_with_its_throttling(tmp_path: Path) -> None:
    root = tree(tmp_path, PI)
    about = machine(root)
    assert (about["board"], about["cpu"]) == ("Raspberry Pi 4 Model B Rev 1.5", "Cortex-A72")
    assert (about["memory_mb"], about["governor"], about["temperature_c"]) == (3791, "ondemand", 61.2)
    state = sensors.state(root)
    assert state["frequency_mhz"] == [600, 1500, 700]
    assert state["frequency_max_mhz"] == 1800
    assert state["load"] == 0.25
    assert state["throttling"] == {
        "source": "firmware",
        "raw": "0x50005",
        "now": ["under-voltage", "throttled"],
        "since_start": ["under-voltage", "throttled"],
    }
    assert sensors.power(root) is None


def test_a_jetson_tells_what_cools_it_and_what_it_takes(tmp_path: Path) -> None:
    root = tree(tmp_path, JETSON)
    assert machine(root)["temperature_c"] == 50.5
    assert sensors.throttling(root) == {
        "source": "kernel", "raw": None, "now": ["cpu-throttle-alert"], "since_start": [],
    }  # fmt: skip
    assert sensors.power(root) == ("ina3221", 6.0)  # the whole board's rail, not the sum
    (root / "sys/class/hwmon/hwmon3/in1_label").write_text("VDD_GPU_SOC\n")
    assert sensors.power(root) == ("ina3221", 8.0)
    with sensors.sampled_power(root) as watts:
        while not watts:
            pass
    assert watts[0] == 8.0


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    about = machine(tmp_path)
    assert (about["board"], about["governor"], about["temperature_c"]) == (None, None, None)
    assert set(sensors.state(tmp_path).values()) == {None}
    with sensors.sampled_power(tmp_path) as watts:
        pass
    assert watts == []


def test_the_rails_of_a_pi_5_are_added_up() -> None:
    text = (
        "   3V7_WL_SW_A current(0)=0.10000000A\n   VDD_CORE_A current(7)=2.00000000A\n"
        "   3V7_WL_SW_V volt(8)=3.70000000V\n   VDD_CORE_V volt(15)=0.75000000V\n   EXT5V_V volt(24)=5.14796000V\n"
    )
    assert sensors.pmic_watts(text) == pytest.approx(1.87)
    assert sensors.pmic_watts('error=1 error_msg="Command not registered"') is None
