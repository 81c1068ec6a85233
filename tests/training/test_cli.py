"""The commands on a few real recordings, from signal to bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.engines.bundles.bundle import UNSIGNED, BundleError, open_bundle
from agent.engines.bundles.signing import Trust
from training.cli import app, main

KEEP = {
    "ptbxl500": ["00001_hr", "00002_hr", "00017_hr", "00031_hr", "00034_hr", "00039_hr"],
    "cinc2021_mix": ["A0001", "A0002", "A0003", "E00001", "JS00001", "Q0001"],
    "mitdb": ["100", "201", "208", "222"],
    "cpsc2021_af": ["data_8_4", "data_92_12"],
}


@pytest.fixture(scope="module")
def few(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a few records of each source."""
    folder = tmp_path_factory.mktemp("data")
    for source, names in KEEP.items():
        place = folder / source / ("records500" if source == "ptbxl500" else "")
        place.mkdir(parents=True)
        there = data_dir / source / ("records500" if source == "ptbxl500" else "")
        for name in names:
            for path in there.glob(f"{name}[._]*"):
                (place / path.name).symlink_to(path)
    shutil.copy(data_dir / "ptbxl500" / "ptbxl_database.csv", folder / "ptbxl500")
    result = CliRunner().invoke(app, ["prepare", str(folder / "dataset"), str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "dataset"


@pytest.mark.data
def test_from_recordings_to_a_bundle(few: Path, tmp_path: Path) -> None:
    run, bundle, options = str(tmp_path / "run"), tmp_path / "bundle", ["--dataset", str(few), "--recipe", "smoke"]
    runner = CliRunner()

    def call(*arguments: str) -> str:
        result = runner.invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    call("train", run, *options, "--threads", "1")
    table = call("evidence", run, *options, "--fold", "0,1")
    assert "Afib" in table
    unseen = np.load(tmp_path / "run" / "unseen.npy")
    scored = np.isfinite(unseen).all(axis=1)
    assert scored.any()
    assert not np.isfinite(unseen[~scored]).any()
    call("thresholds", run, "--dataset", str(few))
    assert json.loads((tmp_path / "run" / "thresholds.json").read_text()) == {}, "too few patients for a rule"
    quick = ["--windows", "30", "--hours", "0.1"]
    compiling = ["compile", run, str(bundle), *options, *quick, "--engine", "openvino-f32", "--no-onnx", "--no-weights"]
    compiling.append("--version")
    call("keygen", str(tmp_path / "key"))
    out = call(*compiling, "0.0.2", "--key", str(tmp_path / "key"))
    assert "Signed by key" in out
    assert "deepecg-sl-demo/0.0.2" in call("verify", str(bundle), "--key", str(tmp_path / "key.pub"))
    manifest = open_bundle(bundle, Trust.of([tmp_path / "key.pub"])).manifest
    assert all(label.rule is None and label.evidence is None for label in manifest.labels)
    readme = (bundle / "README.md").read_text()
    assert "not the published DeepECG weights" in " ".join(readme.split())
    before = (bundle / "manifest.json").read_bytes()

    # A fold's network is shipped with the evidence of that fold alone.
    arguments = [*compiling, "0.0.3", "--run", "1"]
    with pytest.raises(ValueError, match=r"is not of fold 1 alone.*evidence .* --fold 1, then thresholds"):
        runner.invoke(app, arguments, catch_exceptions=False)
    assert (bundle / "manifest.json").read_bytes() == before
    for wrong, sentence in (
        (["--recipe", "demo"], "pass --recipe smoke"),
        (["--run", "0,1"], "one network is shipped"),
    ):
        with pytest.raises(ValueError, match=sentence):
            runner.invoke(app, [*arguments, *wrong], catch_exceptions=False)
    call("evidence", run, *options, "--fold", "1")
    with pytest.raises(ValueError, match=r"no .*thresholds\.json; run: deepecg-train thresholds"):
        runner.invoke(app, arguments, catch_exceptions=False)  # those that were there are of other networks
    alone = np.isfinite(np.load(tmp_path / "run" / "unseen.npy")).all(axis=1)
    assert alone.any()
    assert not (alone & ~scored).any()
    assert alone.sum() < scored.sum()
    call("thresholds", run, "--dataset", str(few))
    out = call(*arguments)
    assert f"{bundle}: deepecg-sl-demo/0.0.3" in out
    assert f"not signed, and no agent serves it until it is: deepecg-train sign {bundle} --key KEY" in out
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(bundle)
    manifest = open_bundle(bundle, UNSIGNED).manifest
    assert "Fold 1 of 3 was left out" in manifest.training.summary
    assert [engine.parity.windows > 12 for engine in manifest.engines] == [True], "the dataset's windows too"
    assert not {"model.onnx", "weights.safetensors"} & manifest.files.keys()
    with pytest.raises(ValueError, match="name the model folder that it was compiled from: --model"):
        runner.invoke(app, ["validate", str(bundle)], catch_exceptions=False)
    model = str(tmp_path / "run" / "1" / "model")
    said = call("validate", str(bundle), *quick, "--data", str(few), "--model", model).splitlines()
    assert [line.rstrip().endswith("passes") for line in said if "openvino-f32 " in line] == [True]


@pytest.mark.data
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["train", "{run}", "--dataset", "{data}", "--recipe", "none"],
            "there is no recipe 'none'; take one of ssl-pretrain",
        ),
        (["train", "{run}", "--dataset", "/nowhere"], "run: deepecg-train prepare /nowhere FOLDER"),
        (["thresholds", "{run}", "--dataset", "{data}"], "run: deepecg-train evidence"),
        (["compile", "{run}", "{run}/b", "--dataset", "{data}"], "run: deepecg-train evidence"),
        (["compile", "{run}", "{run}/b", "--dataset", "{data}", "--key", "{run}/none"], "none cannot be opened"),
        (["train", "{run}", "--dataset", "{data}", "--recipe", "smoke", "--fold", "7"], "there is no fold '7'"),
        (["evidence", "{run}", "--dataset", "{data}", "--fold", "3"], "there is no fold '3'; take 0 to 2"),
        (["evidence", "{run}", "--dataset", "{data}", "--fold", "all"], "left none of them out; name folds, or each"),
        (["compile", "{run}", "{run}/b", "--dataset", "{data}", "--run", "9"], "there is no fold '9'"),
    ],
)
def test_errors_are_one_sentence(
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    filled = [a.replace("{run}", str(tmp_path)).replace("{data}", str(few)) for a in arguments]
    monkeypatch.setattr("sys.argv", ["deepecg-train", *filled])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("deepecg-train: ")
    assert sentence in said
