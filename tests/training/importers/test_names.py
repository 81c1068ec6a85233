"""Which names a pickle may mention, and that none of them leads to anything that runs."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.importers import names
from training.importers.names import Foreign, Name, WeightsError, call, key_of, make, mention


@given(st.sampled_from(sorted(sys.stdlib_module_names)), st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_python_s_own_library_is_refused(module: str, name: str) -> None:
    known = (module, name) in names._REBUILD or (module, name) in names._INERT or module == "typing"
    if known:
        mention(module, name)
    else:
        with pytest.raises(WeightsError, match="do not trust it"):
            mention(module, name)
        with pytest.raises(WeightsError, match="do not trust it"):
            mention(f"{module}.inner", name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "apply"),
        ("__builtin__", "open"),
        ("commands", "getoutput"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("cPickle", "loads"),
        ("pickletools", "dis"),
        ("operator", "attrgetter"),
        ("types", "FunctionType"),
        ("functools", "reduce"),
        ("codecs", "decode"),
        ("linecache", "getline"),
        ("webbrowser", "open"),
        ("pydoc", "locate"),
        ("timeit", "timeit"),
        ("code", "interact"),
        ("collections", "namedtuple"),
    ],
)
def test_the_usual_tools_are_refused(module: str, name: str) -> None:
    with pytest.raises(WeightsError, match="do not trust it"):
        mention(module, name)


@pytest.mark.parametrize(
    "name", ["torch.load", "torch.hub.load", "torch.jit.load", "torch.ops.load_library", "numpy.load", "pandas.eval"]
)
def test_functions_of_libraries_may_be_named_but_not_called(name: str) -> None:
    module, _, function = name.rpartition(".")
    found = mention(module, function)
    assert found == Name(module, function)
    with pytest.raises(WeightsError, match="do not trust it"):
        call(found, ("x",))


def test_what_can_be_called_is_ours() -> None:
    """No function of another module stands in the table: a pickle reaches nothing but this file."""
    for key, function in names._REBUILD.items():
        assert getattr(function, "__module__", "") == names.__name__, key


def test_whatever_is_made_is_inert() -> None:
    found = make(mention("their.package", "Net"), ("a",), {"b": 1})
    assert isinstance(found, Foreign)
    assert (found.args, repr(found)) == (("a", {"b": 1}), "<their.package.Net>")
    assert not callable(found)
    found.state = found
    assert repr(found) == "<their.package.Net>"


def test_keys_are_flat() -> None:
    for key in (None, 1, 1.5, "a", b"a", Name("a", "b")):
        assert key_of(key) == key
    for key in ((1,), [], {}):
        with pytest.raises(WeightsError, match="for a key"):
            key_of(key)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_types_of_storages_are_torch_s() -> None:
    for name, dtype in names.STORAGES.items():
        if name != "UntypedStorage":
            assert getattr(torch, name).dtype == dtype


def test_objects_in_numpy_are_a_pickle_within_the_pickle() -> None:
    assert isinstance(call(mention("numpy", "dtype"), ("f8", False, True)), Foreign)
    for kind in ("O", "O8", "|O", "V16", None):
        with pytest.raises(WeightsError, match="pickle within it"):
            call(mention("numpy", "dtype"), (kind, False, True))
