from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from serkit.benchmarks import accuracy, accuracy_report
from serkit.benchmarks.comparison import merged, plot
from serkit.benchmarks.energy import GpuMeter, PackageMeter, meter
from serkit.benchmarks.pack import Pack, read_pack, write_pack
from serkit.benchmarks.runtimes import Runtime, Worker, describe_bundle, describe_run, in_batches
from serkit.edge.cli import main
from serkit.edge.errors import CorpusError, ModelError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.train.corpora import Utterance


@pytest.fixture
def pack(rng: np.random.Generator) -> Pack:
    frontend = FrontendSettings(n_mels=64)  # the default model's
    emotions = ("neutral", "happy", "angry", "fearful")
    utterances = tuple(
        Utterance(corpus="ravdess", name=f"u{i}", speaker="1", emotion=e, sex="male", path=Path())
        for i, e in enumerate(emotions)
    )
    frames = tuple(rng.normal(-6, 2, (70 + 30 * i, frontend.n_features)).astype(np.float16) for i in range(4))
    return Pack("ravdess", "ship-test", frontend, utterances, frames)


def test_a_pack_comes_back_as_it_was(pack: Pack, tmp_path: Path) -> None:
    write_pack(tmp_path / "p.npz", pack)
    again = read_pack(tmp_path / "p.npz")
    assert again.hash == pack.hash
    assert again.utterances == pack.utterances
    assert (again.corpus, again.protocol, again.frontend) == (pack.corpus, pack.protocol, pack.frontend)
    assert all((a == b).all() for a, b in zip(again.frames, pack.frames, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_the_hash_sees_every_frame_and_label(pack: Pack) -> None:
    frames = [f.copy() for f in pack.frames]
    frames[2][5, 7] += 1
    labels = (replace(pack.utterances[0], emotion="happy"), *pack.utterances[1:])
    assert len({pack.hash, replace(pack, frames=tuple(frames)).hash, replace(pack, utterances=labels).hash}) == 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY\x01\x00"])
def test_a_damaged_pack_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(CorpusError, match="not a pack of utterances") as error:
        read_pack(tmp_path / "p.npz")
    assert "\n" not in str(error.value)
    with pytest.raises(CorpusError, match="no such pack"):
        read_pack(tmp_path / "q.npz")


def test_a_pack_whose_parts_do_not_fit_is_refused(pack: Pack, tmp_path: Path) -> None:
    write_pack(tmp_path / "p.npz", pack)
    with np.load(tmp_path / "p.npz") as stored:
        parts = dict(stored)
    for part, value in (("lengths", parts["lengths"][:-1]), ("frames", parts["frames"][:-1]), ("about", np.array("{"))):
        np.savez(tmp_path / "q.npz", **{**parts, part: value})
        with pytest.raises(CorpusError, match="not a pack of utterances"):
            read_pack(tmp_path / "q.npz")


def test_package_energy_adds_up_over_an_overflow(tmp_path: Path) -> None:
    for name, energy in (("intel-rapl:0", 900), ("intel-rapl:1", 5000), ("intel-rapl:0:0", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("10000\n")
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
    counter = PackageMeter(tmp_path)
    before = counter.read()
    assert before == [900, 5000]
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("400\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("7000\n")
    assert counter.spent_mj(before) == pytest.approx((9500 + 2000) / 1e3)
    with pytest.raises(OSError, match="no energy counter"):
        PackageMeter(tmp_path / "none")


class FakeNvml:
    """NVML's functions as ctypes calls them: 0 is success, results go through pointers."""

    def __init__(self, gpus: int = 1, code: int = 0) -> None:
        self.gpus, self.code, self.energy_mj = gpus, code, 1000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> int:
        energy._obj.value = self.energy_mj
        return self.code


def test_gpu_energy_is_read_only_where_it_is_certain() -> None:
    nvml = FakeNvml()
    counter = GpuMeter(nvml)
    before = counter.read()
    nvml.energy_mj += 250
    assert counter.spent_mj(before) == 250.0
    with pytest.raises(OSError, match="2 GPUs"):
        GpuMeter(FakeNvml(gpus=2))
    with pytest.raises(OSError, match="NVML error 3"):
        GpuMeter(FakeNvml(code=3))


def test_energy_is_none_where_nothing_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError("no driver")

    monkeypatch.setattr("serkit.benchmarks.energy.GpuMeter", none)
    assert meter("gpu") is None


def test_networks_are_asked_for_one_size_only() -> None:
    sizes = []

    def network(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return 2 * x

    x = np.arange(10, dtype=np.float32)
    assert (in_batches(network, 4)(x) == 2 * x).all()
    assert sizes == [4, 4, 4]


def test_only_fair_comparisons_are_measured(pack: Pack) -> None:
    candidate = describe_bundle("default")
    accuracy.check_candidates([candidate], pack)
    known = replace(pack, utterances=(replace(pack.utterances[0], speaker="2"), *pack.utterances[1:]))
    with pytest.raises(CorpusError, match="learned from ravdess/2"):
        accuracy.check_candidates([candidate], known)
    with pytest.raises(SettingsError, match="front end"):
        accuracy.check_candidates([candidate], replace(pack, frontend=FrontendSettings()))
    bored = replace(pack, utterances=(replace(pack.utterances[0], emotion="boredom"), *pack.utterances[1:]))
    with pytest.raises(CorpusError, match="does not know boredom"):
        accuracy.check_candidates([candidate], bored)


def test_a_runtime_that_dies_is_named(pack: Pack) -> None:
    candidate = describe_bundle("default")
    with Worker(Runtime(engine="litert", threads=1), [candidate], pack) as worker:
        worker.call("load", 0)
        assert worker.call("probabilities", 0).shape == (4, len(candidate.labels))
        assert len(worker.call("time_ms", 0, 1, 5, 3)) == len(worker.call("streamed_ms", 0, 5, 3)) == 5
        worker._process.kill()
        with pytest.raises(ModelError, match="litert died"):
            worker.call("probabilities", 0)


@pytest.mark.slow
def test_the_pack_gives_the_figures_of_the_corpus(
    corpus: Path, tiny_run: Path, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERKIT_DATA", raising=False)
    packed, out = tmp_path / "p.npz", tmp_path / "a.json"
    models = ["-m", str(tiny_bundles["float32"]), "-m", str(tiny_bundles["int8"]), "--rounds", "3", "--json"]
    side = ["--corpus", "ravdess", "--protocol", "ship-test", "--data", str(corpus), "--pack", str(packed)]
    made = CliRunner().invoke(main, ["bench", "accuracy", *models, *side, "--runtimes", "litert"])
    assert made.exit_code == 0, made.output
    here = [json.loads(line) for line in made.stdout.splitlines()]
    bundle, run = describe_bundle(str(tiny_bundles["float32"])), describe_run(tiny_run)
    assert (bundle.trained, bundle.recipe, bundle.learned_from) == (run.trained, run.recipe, run.learned_from)
    arguments = [
        str(tiny_run),
        *models,
        "--utterances",
        str(packed),
        "--runtimes",
        "tensorflow,litert",
        "--out",
        str(out),
    ]
    ran = CliRunner().invoke(main, ["bench", "accuracy", *arguments])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(out.read_text())["rows"]
    first, keras, _ = rows
    assert [(r["engine"], r["format"]) for r in rows] == [
        ("litert", "float32"), ("tensorflow", "keras"), ("litert", "int8")
    ]  # fmt: skip
    assert [r["answers"] for r in here] == [first["answers"], rows[2]["answers"]]
    assert first["utterances"] == here[0]["utterances"] == read_pack(packed).hash
    assert first["ratio"] == first["label_agreement"] == keras["label_agreement"] == 1.0
    assert set(keras["windows_per_s"]) == {"1", "8", "64", "512"}
    assert set(first["windows_per_s"]) == {"1"}
    assert keras["median_ms"] <= keras["p95_ms"] <= keras["p99_ms"]
    assert keras["streamed_ms"] is None
    assert keras["uar"] == first["uar"] > 0.5


def test_usage(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["bench", "accuracy", "--corpus", "ravdess"]).exit_code == 2
    both = run(main, ["bench", "accuracy", "--utterances", "none.npz", "--protocol", "random"])
    assert (both.exit_code, "leave --corpus and --protocol out" in both.stderr) == (2, True)
    missing = run(main, ["bench", "accuracy", "--utterances", str(tmp_path / "none.npz")])
    assert (missing.exit_code, missing.output.count("\n")) == (1, 1)


def row(**values: Any) -> dict[str, Any]:
    return {
        "system": "s", "model": "m-dynamic", "recipe": "m", "trained": "2026", "format": "dynamic", "engine": "litert",
        "device": "Pi", "processor": "cpu", "threads": 1, "utterances": "aa", "size_bytes": 2_000_000,
        "uar": 0.6, "uar_ci95": [0.5, 0.7], "accuracy": 0.6, "label_agreement": 1.0, "answers": "0123",
        "median_ms": 9.0, "p95_ms": 10.0, "p99_ms": 11.0, "streamed_ms": 3.0, "ratio_to": "m-dynamic, litert",
        "ratio": 1.0, "windows_per_s": {"1": 111.0}, "energy_mj": None, **values,
    }  # fmt: skip


GPU = row(
    format="keras", engine="jax", model="m", device="NVIDIA H200", processor="gpu", threads=None, answers="0120",
    label_agreement=None, ratio_to=None, ratio=None, streamed_ms=None, median_ms=0.5,
    windows_per_s={"1": 2e3, "8": 1e4, "64": 5e4, "512": 1e5}, energy_mj={"1": 90.0, "512": 2.0},
)  # fmt: skip


def results(*files: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    machine = {"board": None, "cpu": "X", "cores": 2}
    names = ("accuracy", "accuracy-gpu")
    return {n: {"benchmark": "accuracy", "machine": machine, "rows": f} for n, f in zip(names, files, strict=False)}


def test_rows_of_another_machine_compare_with_the_same_reference(tmp_path: Path) -> None:
    rows = merged(results([row()], [copy.deepcopy(GPU)]))
    assert [r["label_agreement"] for r in rows] == [1.0, 0.75]
    plot(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_other_utterances_or_another_training_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"accuracy-gpu\.json and accuracy\.json scored different utterances"):
        merged(results([row()], [GPU | {"utterances": "bb"}]))
    with pytest.raises(SettingsError, match="record the older one again"):
        merged(results([row()], [GPU | {"trained": "2027"}]))


def test_a_gpu_is_in_the_table_only_if_one_was_measured() -> None:
    without = accuracy_report.runtimes(results([row(), row(engine="tflite-runtime", error="no")]))
    both = accuracy_report.runtimes(results([row()], [GPU]))
    assert "not measured" in without[2]
    assert not any("not measured" in line for line in both)
    assert "NVIDIA H200" in both[2]
    assert "90 at 1; 2 at 512" in both[2]
    for table in (without, both):
        assert len({line.count("|") for line in table}) == 1
