"""Every published file, with random weights: the same outputs, the right labels and thresholds, and clear refusals."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from agent.core.labels import LABEL_NAMES, SSL_INDEX_FROM_SL, SSL_ORDER
from training.importers.convert import Asked, Imported, import_file
from training.importers.names import WeightsError
from training.models.kinds import SSLConfig
from training.models.published import ssl_to_sl, thresholds_sl, thresholds_ssl
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.models.weights import in_label_order, load_network, read_config

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
Save = Callable[..., Path]


def check(net: nn.Module, path: Path, x: torch.Tensor, asked: Asked | None = None) -> Imported:
    """Import, load again, and hold tensors (bit for bit) and outputs against the original's."""
    folder = path.parent / "model"
    made = import_file(path, folder, asked)
    again = load_network(folder)
    assert read_config(folder) == made.config
    assert made.parameters == sum(p.numel() for p in net.parameters())
    wanted = net.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in again.state_dict().items())
    with torch.no_grad():
        ours, theirs = again(x), net.eval()(x)
    if isinstance(theirs, tuple):
        ours, theirs = ours[0], theirs[0]
    # Where a tensor begins in memory decides how its products are summed up, so the last bit may differ.
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    shutil.rmtree(folder)
    return made


# --- the table of published files


@pytest.mark.parametrize(
    ("name", "outputs", "task", "threshold"),
    [
        ("efficientnet_deepecg_unscaled.pt", 77, "77 diagnoses", None),
        ("lvef_under_equal_40.pt", 1, "lvef_40", 0.197),
        ("lvef_under_50.pt", 1, "lvef_50", 0.268),
        ("afib_5y.pt", 1, "af_5y", 0.207),
    ],
)
@pytest.mark.parametrize("how", ["trace", "wrapped", "scripted parent"])
def test_torchscript_of_sl(
    build: SimpleNamespace, tmp_path: Path, name: str, outputs: int, task: str, threshold: float | None, how: str
) -> None:
    net = build.sl(outputs)
    if how == "scripted parent":
        script = torch.jit.script(build.wrapper(torch.jit.trace(net, build.window())).eval())
    else:
        script = torch.jit.trace(build.wrapper(net).eval() if how == "wrapped" else net, build.window())
    script.save(tmp_path / name)
    made = check(net, tmp_path / name, build.window())
    config = made.config
    assert (config.family, config.task, config.provenance.file) == ("sl", task, name)
    assert config.provenance.origin == "TorchScript archive"
    assert config.preprocessing.gain == 1 / 0.0048
    assert config.thresholds is not None
    if task == "77 diagnoses":
        assert (config.labels, config.order) == (LABEL_NAMES, "sl")
        np.testing.assert_allclose(config.thresholds, thresholds_sl(), rtol=1e-6)
    else:
        assert config.thresholds == (threshold,)
    around = ("what the module around the network does to its input or output was not taken over",)
    assert config.provenance.notes == (() if how == "trace" else ("keys were under 'backbone.ecg.'", *around))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_module_of_a_package_that_is_not_there(build: SimpleNamespace, save: Save, legacy: bool) -> None:
    net = build.sl(77)
    theirs = type("EfficientNet1DV2", (DeepECGSL,), {})
    with build.package("EfficientNetv2", EfficientNet1DV2=theirs):
        net.__class__ = theirs
        path = save(net, "sl_model.h5", _use_new_zipfile_serialization=not legacy)
    assert "EfficientNetv2" not in sys.modules
    with pytest.raises((ModuleNotFoundError, AttributeError)):  # as torch itself reads it
        torch.load(path, weights_only=False)
    made = check(net, path, build.window())
    assert (made.config.task, made.config.order) == ("77 diagnoses", "sl")
    assert made.config.provenance.origin.startswith("pickled module")
    assert made.foreign == ("EfficientNetv2", "training")


@pytest.mark.parametrize("form", ["zip", "legacy", "half", "safetensors", "module.", "_orig_mod.model.", "fc1"])
def test_state_dicts(build: SimpleNamespace, save: Save, tmp_path: Path, form: str) -> None:
    net = build.sl(77)
    state = net.state_dict()
    notes: tuple[str, ...] = ()
    if form == "half":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        net.load_state_dict(state)
    elif form == "fc1":
        state = {key.replace("classifier.3.", "classifier.fc1."): value for key, value in state.items()}
    elif form.endswith("."):
        state = {form + key: value for key, value in state.items()}
        notes = (f"keys were under {form!r}",)
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        path = save(state, _use_new_zipfile_serialization=form != "legacy")
    assert check(net, path, build.window()).config.provenance.notes == notes


@pytest.mark.parametrize(
    ("name", "outputs", "task", "threshold"),
    [
        ("wcr_77_classes.pt", 77, "77 diagnoses", None),
        ("wcr_afib_5y.pt", 1, "af_5y", 0.231),
        ("wcr_lvef_equal_under_40.pt", 1, "lvef_40", 0.002),
        ("wcr_lvef_under_50.pt", 1, "lvef_50", 0.032),
    ],
)
@pytest.mark.parametrize("settings", ["cfg", "args", "omegaconf"])
def test_fairseq_checkpoints_of_ssl(
    build: SimpleNamespace, save: Save, name: str, outputs: int, task: str, threshold: float | None, settings: str
) -> None:
    net = build.ssl(outputs)
    # A reader that has no settings takes one head for 64 features, so these say something that it could not know.
    assert net.config.heads == 4
    nodes = ("DictConfig", "AnyNode")
    with build.package("omegaconf_test", **{node: type(node, (), {}) for node in nodes}) as package:
        cfg = as_nodes(package, build.fairseq(net)["cfg"]) if settings == "omegaconf" else settings
        path = save(build.fairseq(net, settings=cfg), name)
    made = check(net, path, build.window())
    config = made.config
    assert (config.family, config.task, config.provenance.origin) == ("ssl", task, "fairseq checkpoint, torch.save")
    assert config.sizes == replace(net.config, activation_dropout=0.1)
    assert config.preprocessing.gain == 1
    assert made.foreign == (("numpy", "omegaconf_test") if settings == "omegaconf" else ("numpy",))
    assert config.thresholds is not None
    if outputs == 1:
        assert (config.order, config.thresholds) == (None, (threshold,))
        return
    assert (config.labels, config.order) == (SSL_ORDER, "ssl")
    # Thresholds stand in the outputs' order, and both come to SL's by the published permutation.
    found = np.array(config.thresholds, np.float32)
    np.testing.assert_allclose(found[list(SSL_INDEX_FROM_SL)], thresholds_ssl(), rtol=1e-6)
    np.testing.assert_allclose(in_label_order(found, config), thresholds_ssl(), rtol=1e-6)
    with torch.no_grad():
        outputs_ssl = torch.sigmoid(net(build.window())).numpy()
    assert np.array_equal(in_label_order(outputs_ssl, config), ssl_to_sl(outputs_ssl))
    assert not np.array_equal(in_label_order(outputs_ssl, config), outputs_ssl)


def as_nodes(package: Any, value: Any) -> Any:
    """Settings in objects laid out as omegaconf's."""
    node = package.DictConfig() if isinstance(value, dict) else package.AnyNode()
    if isinstance(value, dict):
        children = {key: as_nodes(package, item) for key, item in value.items()}
        for child in children.values():
            child._parent = node
        node.__dict__ |= {"_metadata": None, "_parent": None, "_content": children}
    else:
        node.__dict__ |= {"_metadata": None, "_parent": None, "_val": value}
    return node


@pytest.mark.parametrize("name", ["SSL_pretrained.pt", "base_ssl.pt"])
def test_pretraining_checkpoint(build: SimpleNamespace, save: Save, name: str) -> None:
    net = build.pretraining()
    made = check(net, save(build.fairseq(net), name), build.window(1250))
    config = made.config
    assert (config.family, config.task, config.labels) == ("ssl-pretraining", "pretraining", ())
    assert config.codebook == net.codebook
    assert config.preprocessing.seconds == 5


@pytest.mark.parametrize(("criterion", "columns"), [("cross_entropy", "softmax"), ("binary_focal", "sigmoid")])
def test_two_columns_of_one_label_become_one_logit(
    build: SimpleNamespace, save: Save, tmp_path: Path, criterion: str, columns: str
) -> None:
    net = build.ssl(2)
    path = save(build.fairseq(net, criterion=criterion), "wcr_lvef_under_50.pt")
    made = import_file(path, tmp_path / "m")
    with torch.no_grad():
        logits = net(build.window())
        wanted = logits.softmax(1)[:, 1] if columns == "softmax" else logits[:, 1].sigmoid()
        found = load_network(tmp_path / "m")(build.window())
    assert found.shape == (2, 1)
    torch.testing.assert_close(found[:, 0].sigmoid(), wanted, atol=1e-6, rtol=0)
    assert columns in made.config.provenance.notes[-1]
    assert made.config.labels == ("LVEF < 50",)


def test_two_columns_without_a_criterion_are_asked_about(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    path = save(build.sl(2).state_dict(), "lvef_under_50.pt")
    with pytest.raises(WeightsError, match="pass --columns"):
        import_file(path, tmp_path / "m")
    import_file(path, tmp_path / "m", Asked(columns="softmax"))
    two = Asked(task="lvef_50", labels=("LVEF < 50", "LVEF < 35"))
    assert import_file(path, tmp_path / "m", two).config.labels == two.labels


def test_what_the_user_says(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    state = build.ssl(77).state_dict()
    path = save(state, "net.pt")
    own = import_file(path, tmp_path / "m", Asked(order="sl", heads=8, thresholds=False)).config
    assert (own.order, own.labels, own.thresholds) == ("sl", LABEL_NAMES, None)
    assert isinstance(own.sizes, SSLConfig)
    assert own.sizes.heads == 8
    guessed = import_file(path, tmp_path / "m").config
    assert guessed.provenance.notes == (
        "nothing says how many heads of attention there are: 1 were taken, as published",
    )
    path = save(build.fairseq(build.ssl(1), criterion="mse"), "wcr_fevg.pt")
    config = import_file(path, tmp_path / "m", Asked(task="lvef")).config
    assert (config.activation, config.labels, config.thresholds) == ("none", ("LVEF",), None)
    config = import_file(path, tmp_path / "m", Asked(task="brugada", labels=("Brugada type 1",))).config
    assert (config.task, config.labels, config.thresholds) == ("brugada", ("Brugada type 1",), None)


def test_the_same_file_gives_the_same_bytes(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    path = save(build.fairseq(build.ssl(1)), "wcr_afib_5y.pt")
    for folder in ("a", "b"):
        import_file(path, tmp_path / folder)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# --- what is refused


def broken(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[SimpleNamespace], Any]:
    def _make(build: SimpleNamespace) -> Any:
        state = dict(build.sl(77).state_dict())
        change(state)
        return state

    return _make


@pytest.mark.parametrize(
    ("make", "asked", "says"),
    [
        (broken(lambda s: s.pop("final_conv.bias")), None, r"1 missing \(final_conv\.bias\)"),
        (broken(lambda s: s.pop("final_conv.weight")), None, r"no tensor 'final_conv\.weight'"),
        (broken(lambda s: s.update(extra=torch.ones(1))), None, r"1 left over \(extra\)"),
        (
            broken(lambda s: s.update({"final_norm.norm.weight": torch.ones(3)})),
            None,
            r"1 of another shape \(final_norm\.norm\.weight \(3,\) instead of \(32,\)\)",
        ),
        (broken(lambda s: s.update({"initial_conv.0.weight": torch.ones(3)})), None, "shapes of its tensors make no"),
        (broken(lambda s: s.update({"features.0.fused_conv.0.weight": torch.ones(0, 8, 3)})), None, "shape"),
        (broken(lambda s: s["final_conv.bias"].fill_(torch.nan)), None, r"\(final_conv\.bias\) hold NaN"),
        (broken(lambda s: s.update({"final_conv.bias": torch.ones(32, dtype=torch.int64)})), None, "whole numbers"),
        (broken(lambda _: None), Asked(family="ssl"), "those of DeepECG-SL, not of DeepECG-SSL"),
        (broken(lambda _: None), Asked(task="lvef_40"), "1 labels for 77 outputs"),
        (broken(lambda _: None), Asked(task="beats"), "name its outputs with --labels"),
        (lambda b: b.fairseq(b.ssl(77)), Asked(heads=8), "its settings say 4 heads of attention, not 8"),
        (lambda b: b.ssl(77).state_dict(), Asked(heads=5), "5 heads of attention do not divide a width of 32"),
        (lambda b: b.fairseq(b.ssl(1)), None, "pass --task"),
        (lambda _: nn.Linear(3, 2), None, "none of its 2 tensors"),
        (lambda _: nn.Linear(3, 2).state_dict(), None, "none of its 2 tensors"),
    ],
)
def test_refusals_are_one_sentence(
    build: SimpleNamespace, save: Save, tmp_path: Path, make: Callable[..., Any], asked: Asked | None, says: str
) -> None:
    path = save(make(build), "net.pt")
    with pytest.raises(ValueError, match=says) as e:
        import_file(path, tmp_path / "m", asked)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "m").exists()


def test_settings_of_another_network_are_refused(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    checkpoint = build.fairseq(build.ssl(77))
    checkpoint["cfg"]["model"]["layer_norm_first"] = True
    with pytest.raises(WeightsError, match="layer_norm_first = True, which is another network"):
        import_file(save(checkpoint), tmp_path / "m")
    checkpoint["cfg"]["model"] |= {"layer_norm_first": False, "normalize": True}
    notes = import_file(save(checkpoint), tmp_path / "m").config.provenance.notes
    assert any("normalised first" in note for note in notes)


def test_a_module_that_computes_something_else_is_refused(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    net = build.sl(77)
    net.features[1].fused_conv[2] = nn.SiLU()
    with pytest.raises(WeightsError, match=r"features\.1\.fused_conv\.2 is a SiLU there and a LeakyReLU here"):
        import_file(save(net), tmp_path / "m")
    net = build.sl(77)
    net.features[1].fused_conv[0].stride = (1,)
    with pytest.raises(WeightsError, match=r"stride is \(1,\) there and \(2,\) here"):
        import_file(save(net), tmp_path / "m")
    net = build.sl(77)
    net.features[1].fused_conv[2] = nn.SiLU()
    torch.jit.trace(net, build.window()).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="SiLU"):
        import_file(tmp_path / "script.pt", tmp_path / "m")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["beside", "in the state", "in the settings", "instead"])
def test_a_hostile_file_runs_nothing(
    build: SimpleNamespace, save: Save, tmp_path: Path, canary: Path, place: str, legacy: bool
) -> None:
    checkpoint = build.fairseq(build.ssl(77))
    if place == "beside":
        checkpoint["extra_state"]["x"] = Evil(canary)
    elif place == "in the state":
        checkpoint["model"] = dict(checkpoint["model"]) | {"x": Evil(canary)}
    elif place == "in the settings":
        checkpoint["cfg"]["model"]["x"] = Evil(canary)
    path = save(Evil(canary) if place == "instead" else checkpoint, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"the file asks for (posix|nt)\.system, .* do not trust it"):
        import_file(path, tmp_path / "m")
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "torch itself does run it, so this test can fail"


def test_a_plain_pickle_of_tensors_is_told(build: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(pickle.dumps(build.sl(77).state_dict()))
    with pytest.raises(WeightsError, match=r"save the state dict again with torch\.save"):
        import_file(path, tmp_path / "m")


@pytest.fixture(scope="module")
def valid(build: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A valid file of each layout."""
    folder = tmp_path_factory.mktemp("valid")
    torch.jit.trace(build.sl(1), build.window()).save(folder / "script.pt")
    save_file(build.sl(1).state_dict(), folder / "s.safetensors")
    found = {"script": (folder / "script.pt").read_bytes(), "safetensors": (folder / "s.safetensors").read_bytes()}
    for name, value in (("fairseq", build.fairseq(build.ssl(1))), ("module", build.sl(1))):
        for form in (True, False):
            stream = io.BytesIO()
            torch.save(value, stream, _use_new_zipfile_serialization=form)
            found[f"{name} {form}"] = stream.getvalue()
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.data())
def test_a_changed_file_gives_a_model_or_the_one_error(
    valid: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(valid[data.draw(st.sampled_from(sorted(valid)))])
    # Where the pickle is: a change within a storage only trips its checksum.
    end = content.find(b"PK\x01\x02") if data.draw(st.booleans()) else 6000
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, max(0, min(end, len(content)) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "afib_5y.pt"
    path.write_bytes(content)
    with suppress(WeightsError):
        import_file(path, tmp_path / "m")


# --- memory

MEASURE = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.importers.convert import import_file
import_file(Path(sys.argv[1]), Path(sys.argv[3]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_file(Path(sys.argv[2]), Path(sys.argv[3]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_the_optimiser_s_state_is_never_in_memory(build: SimpleNamespace, save: Save, tmp_path: Path) -> None:
    small = save(build.fairseq(build.ssl(1)), "small_afib_5y.pt")
    net = DeepECGSSL(SSLConfig(labels=1, width=512, heads=8, layers=4, feed_forward=2048))
    net.initialise(torch.Generator().manual_seed(0))
    large = save(build.fairseq(net), "large_afib_5y.pt")
    model = sum(p.numel() * 4 for p in net.parameters())
    assert large.stat().st_size > 3 * model > 150e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, small, large, tmp_path / "m"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
    )
    assert int(done.stdout) < 1.6 * model
