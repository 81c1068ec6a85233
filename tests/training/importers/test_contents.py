"""What is in a file: tensors by name, settings made plain, and modules that compute something else."""

from __future__ import annotations

import base64
import io
import pickle
import zlib
from argparse import Namespace
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.importers.archive import open_archive
from training.importers.contents import Contents, contents, differences, packages, plain
from training.importers.names import Foreign, ImportLimits, Name, WeightsError
from training.importers.unpickler import unpickle

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

OMEGACONF = {
    "2.0.6": (
        "c-n20X>-#s5Qfu>wr-(7p)L0f0eWzkJCp(i3IWVzj$#x?iQGDNURx=27|p;3X8Lpa39RI5s5@lxVdc?2@4LH_es%{*i#J)2#Et2C7)Tw2P3H"
        "lH^LdEU*<a{V=q`JMrBcanamngTGW2Xpt+9+dlpt9c^Yr<~76-kQ+o!Ot><v(E${W61YjgAmzF+Hvkql$sceJj90dI)5B(-H8$b8pe)np}Y8"
        "747{;H-N+v|izB7^-@G6gDE(%rLC5-P=aXOs1VcV#j*s?J#m#60P#o4_F{LMuH%TBBB#5bLzaoI+4t^cZz}E*yUok5hQ`!z-ZMQrZtavi^m("
        "L_EbAHuU|K!%~JY`y}3)D`XKdsOkuoi+_jQAk1!#01NSNHFN+?b8*)J5U|IAB#0%r5GZ(KpI3xzE!dVwXVnR?ohsB66rjEEcDn_e9%Zk0COA"
        "!88*&Elk;(!EFpGmDtMfrlWdWPeh<`UD6Oe<6=aBzauPb!=uCtHX2Z)T@y(;0;_Srq?l9oM$bT3hE_oHvH{dA+*$RT|Ia;xM&FFU|3o5?XCq"
        "VMf=jp%)Y`7NJubddWgBySS1=#iVKc$sdwsE7KaMaJ5tGZ1DA0Tr+*0Rk&{ZdPCu6k$+9|Z(06r7k9Sy@@`q=Mk@;UtkF4z`~NXIZ$S@SJT!"
        "<|GTKdsX1?PQdF!IEjfG9Ejl#@csb>`0EA^N}o+v!E&KDJ)Z3q@_hE8|zJom7mJyflS7cO3k(c<oeP7_|)`ew!05?oW<YlSzqxVH-L3dJp!H"
        "2A#*doDhh{3l{^q4K9>ew`Z2+pnL1APpr?>A>NmnZYN8&$f~!g)ha{ebjW{(!aW3TW3(quZthE7Dr$V*A=)m+)!v1k%2}Eiws>X8`vkBhJGM"
        "g8OI8F)lb4V9yWzUWT-8L*isXPc99xsDl9d1krk+wN(It1f&SBf0Zo3LCI"
    ),
    "2.3.0": (
        "c-n20`BT$C6vqpQlz<0bAb6kkpm>94MeqVejaNM5Hr;juY0_`9RT*bz^ap3)zx7Y>?WWNb?PR8JlYQUs=e?KB_g*h*@&@ywuwJhDp45Tgu;w"
        "Y8OG6Y+{XmaGZ^;=f6bf#WOIBl&p)Z$OWeK+^K{7w&@#D@G3!5mnUtx2}DN=6C>#kgFaSV9$=Z6hzHe9t(bcX0*R9)ttOrH;Wu3K&Uf%HSyw"
        "KSIn%Sc2m=|>?8Ftq0M(RziiVtC2vr?4KdMuII0Tb<3cOk~{lB(|+3j+H%i<0z8YzV2)_G)WYE=CSKBPjHNQUK9j`K>CSQ<8{^!WNN)bSU<7"
        "T#x8?EmMP_KQFMms1`l|XhaL1iqS&rF1G-Z!7SnBvE}1l!8YT65Okr=y5I3V54=^rthbI*Fl|-M=9ow&Ppd<!FQ49)846TV_F)paEgJS!-7!"
        "d~Nkd4EF2!t^dqoPNU@R5=;s)<66q+^#!?MMZ=g0otJqq&iVv?I|2SfaqfG4egGaDo^%&h_s&PtvB6!l@42Qp$Ezvz^Ydow0G&Fikj{bmgCE"
        "UXzQ%)EB)pFHc!$!zqPxx@fI?Ug1KwZdvPI%;{dTaXHl$lcw{>zDbs>l(nM5m3Fn=vCwxhZTdQ+a5d}eHHGUN`Z}#WZsa^}+PL*^Un?b%65m"
        "#s&4}+P%>9RWKBsoq#yz7lL&UvAHuV+v39^U679Qj}9r#Ih_#RQ19lnR;v!Jk;mGDU6amTakjOcU=9gGJW<4F$Vsf}l1cXvWW#}D?OGH1lt2"
        "Rt`5zEF6X)%Z%`bytmx1ugF6#NXI>Ya|xL<o(L8g88+pEFFjbW_YnLc}%Y%-kF)aSNM<>^ijdxFq3!M;Zx3m*{J?I6E8hPZpfM(HABu7>KS="
        "ML3B^2rgi<C?y`*)qxYVsqrWE2gd-qm{r&jD{f3Ze8sShO%7j}A=oW5j;W#Ip*pOYql}ZI|(-6AKzXA6`uHO"
    ),
}
"""What these versions of omegaconf pickle (protocol 2, as torch.save) of the settings below; zlib, base85."""

SETTINGS = {
    "model": {"encoder_attention_heads": 12, "data": "${task.data}"},
    "task": {"data": "/x", "p": [1.0]},
    "criterion": {"_name": "mse", "weight": "???"},
}


def found(path: Path, limits: ImportLimits | None = None) -> Contents:
    with open_archive(path) as archive:
        return contents(archive.root, limits)


def net() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv1d(12, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.LeakyReLU(0.01))
    return nn.Sequential(inner, inner, nn.Linear(4, 2))


@pytest.mark.parametrize("version", OMEGACONF)
def test_settings_of_omegaconf_become_plain(version: str) -> None:
    content = zlib.decompress(base64.b85decode(OMEGACONF[version]))
    cfg = unpickle(io.BytesIO(content))
    assert isinstance(cfg, Foreign)
    assert plain(cfg) == SETTINGS
    assert packages(cfg) == ("omegaconf",)


class Mode(Enum):
    DDP = "pytorch_ddp"

    def __reduce_ex__(self, protocol: int) -> tuple[type[Mode], tuple[str]]:  # type: ignore[override]
        """As every Python but 3.11.0 to 3.11.3 pickles them: by value, not by getattr."""
        return type(self), (self.value,)


def test_other_settings_become_plain() -> None:
    value = {"args": Namespace(heads=12, mode=Mode.DDP, rates=(1.0, 2.0)), "none": None, "odd": object()}
    assert plain(unpickle(io.BytesIO(pickle.dumps(value, 2)))) == {
        "args": {"heads": 12, "mode": "pytorch_ddp", "rates": [1.0, 2.0]},
        "none": None,
        "odd": None,
    }


def test_settings_that_refer_to_themselves_or_to_one_thing_many_times_end() -> None:
    ring: dict[str, Any] = {"heads": 12}
    ring["self"] = ring
    assert plain(ring) == {"heads": 12, "self": None}
    laughs: Any = "ha"
    for _ in range(40):
        laughs = [laughs, laughs]
    assert plain(laughs) is not None
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    plain(deep)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_names_its_tensors(save: Callable[..., Path], legacy: bool) -> None:
    module = net()
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("passing", torch.ones(1), persistent=False)
    seen = found(save(module, _use_new_zipfile_serialization=not legacy))
    assert seen.form == "pickled module"
    assert sorted(seen.tensors) == sorted(module.state_dict())
    assert {path: m.cls for path, m in seen.modules.items()} == {
        path: type(m).__name__ for path, m in module.named_modules(remove_duplicate=False)
    }
    assert seen.modules["0.0"].attributes["stride"] == (2,)


@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_names_its_tensors(tmp_path: Path, how: str) -> None:
    module = net()[0].eval()
    script = torch.jit.trace(module, torch.zeros(1, 12, 50)) if how == "trace" else torch.jit.script(module)
    script.save(tmp_path / "s.pt")
    seen = found(tmp_path / "s.pt")
    assert seen.form == "TorchScript archive"
    assert sorted(seen.tensors) == sorted(module.state_dict())
    assert seen.modules["2"].cls == "LeakyReLU"


def test_a_frozen_script_has_no_names(tmp_path: Path) -> None:
    torch.jit.freeze(torch.jit.script(net()[0].eval())).save(tmp_path / "s.pt")
    with pytest.raises(WeightsError, match=r"before torch\.jit\.freeze"):
        found(tmp_path / "s.pt")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module"])
def test_checkpoints_hold_the_state_under_a_key(save: Callable[..., Path], key: str) -> None:
    module = net()
    seen = found(save({"epoch": 3, key: module.state_dict(), "optimizer": {"state": {}}}))
    assert (seen.form, sorted(seen.tensors)) == ("state dict", sorted(module.state_dict()))
    seen = found(save({"epoch": 3, key: module}))
    assert (seen.form, sorted(seen.tensors)) == ("pickled module", sorted(module.state_dict()))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds nothing"),
        ({"a\nb": torch.ones(1)}, "names that none has"),
        ({"\x1b[2J": torch.ones(1)}, "names that none has"),
        ({"": torch.ones(1)}, "names that none has"),
        ({"a\nb": 1}, "keys a b, but no tensor"),
        ({"epoch": 1, "loss": 0.5}, "keys epoch, loss, but no tensor"),
        ({"w": torch.ones(1), "epoch": 1, "mean": [1]}, r"2 other things \(epoch, mean\)"),
        (Namespace(a=1), "argparse.Namespace without any named tensor"),
        (torch.ones(3), "holds a TensorRef"),
    ],
)
def test_what_holds_no_network_is_told(save: Callable[..., Path], value: Any, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        found(save(value))


def module_of(children: dict[str, Any]) -> Foreign:
    return Foreign(Name("their", "Net"), state={"_parameters": {}, "_buffers": {}, "_modules": children})


def test_modules_without_end_are_refused(save: Callable[..., Path]) -> None:
    ring = module_of({})
    ring.state["_modules"]["self"] = ring
    with pytest.raises(WeightsError, match="nested without end"):
        contents(ring)
    many = module_of({})
    for _ in range(60):
        many = module_of({"a": many, "b": many})
    with pytest.raises(WeightsError, match="nested without end"):
        contents(many)
    with pytest.raises(WeightsError, match="names that none has"):
        contents(module_of({"a" * 201: module_of({})}))
    with pytest.raises(WeightsError, match="names that none has"):
        contents(module_of({1: module_of({})}))  # type: ignore[dict-item]
    with pytest.raises(WeightsError, match="more than 8 tensors"):
        found(save(net()), ImportLimits(names=8))


def test_what_shapes_do_not_tell_is_compared(save: Callable[..., Path]) -> None:
    ours = net()
    assert differences(ours, found(save(net())).modules) == []
    theirs: Any = net()
    theirs[0][0].stride = (1,)
    theirs[0][1].eps = 1e-3
    theirs[0][2] = nn.SiLU()
    assert differences(ours, found(save(theirs)).modules) == [
        "0.0.stride is (1,) there and (2,) here",
        "0.1.eps is 0.001 there and 1e-05 here",
        "0.2 is a SiLU there and a LeakyReLU here",
    ]
    theirs[0][2] = nn.LeakyReLU(0.2)
    assert "0.2.negative_slope is 0.2 there and 0.01 here" in differences(ours, found(save(theirs)).modules)
