"""What is in a file of weights: the named tensors, the settings beside them, and what is known of the modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from training.importers.names import Foreign, ImportLimits, Name, TensorRef, WeightsError, short

STATES = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which checkpoints keep the state dict, or the module itself."""


@dataclass(frozen=True, slots=True)
class Module:
    """What a file says of one module."""

    cls: str
    """Name of its class alone, as ``Conv1d``."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Its plain attributes, as stride and padding; TorchScript keeps them in its code, which is not read."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found."""

    form: str
    """In words: ``state dict``, ``TorchScript archive``, ``pickled module``, ``fairseq checkpoint``."""
    tensors: Mapping[str, TensorRef]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """fairseq's ``cfg`` or ``args``, plain."""
    modules: Mapping[str, Module] = field(default_factory=dict)
    """By path; empty for a state dict."""


def contents(root: Any, limits: ImportLimits | None = None) -> Contents:
    """What an archive's root holds.

    Raises WeightsError if it is nothing that holds named tensors.
    """
    limits = limits or ImportLimits()
    if isinstance(root, dict):
        return _of_dict(root, limits)
    if isinstance(root, Foreign):
        return _of_module(root, limits)
    raise WeightsError(f"the file holds a {type(root).__name__}; give a state dict, a module, or a checkpoint")


def _of_dict(root: Mapping[Any, Any], limits: ImportLimits) -> Contents:
    for key in STATES:
        inner = root.get(key)
        if isinstance(inner, Foreign) or (isinstance(inner, dict) and any(_is_tensor(v) for v in inner.values())):
            found = contents(inner, limits)
            settings = plain(root["cfg"]) if root.get("cfg") is not None else plain(root.get("args"))
            if "cfg" in root or "args" in root:
                return replace(
                    found, form="fairseq checkpoint", settings=settings if isinstance(settings, dict) else {}
                )
            return found
    tensors = {key: value for key, value in root.items() if isinstance(key, str) and _is_tensor(value)}
    others = [str(key) for key in root if key not in tensors and key != "_metadata"]
    if not tensors:
        what = f"keys {', '.join(sorted(map(short, others))[:5])}" if others else "nothing"
        raise WeightsError(f"the file holds {what}, but no tensor; give a state dict, a module, or a checkpoint")
    for name in tensors:
        _check(name, limits)
    if others:
        raise WeightsError(
            f"beside {len(tensors)} tensors the file holds {len(others)} other things "
            f"({', '.join(sorted(map(short, others))[:3])}): save the network's state dict alone"
        )
    return Contents("state dict", tensors)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRef)


def _of_module(root: Foreign, limits: ImportLimits) -> Contents:
    script = root.cls.root == "__torch__"
    tensors: dict[str, TensorRef] = {}
    modules: dict[str, Module] = {}
    for path, module in _modules(root, limits, script=script):
        state = module.state if isinstance(module.state, dict) else {}
        prefix = f"{path}." if path else ""
        held = [state] if script else [state.get("_parameters"), state.get("_buffers")]
        passing = state.get("_non_persistent_buffers_set", ())
        for part in held:
            for name, value in part.items() if isinstance(part, dict) else ():
                _check(name, limits)
                if _is_tensor(value) and not (isinstance(passing, (set, list)) and name in passing):
                    tensors[f"{prefix}{name}"] = value
                    if len(tensors) > limits.names:
                        raise WeightsError(f"the file names more than {limits.names} tensors")
        attributes = {} if script else {key: value for key, value in state.items() if _is_simple(value)}
        modules[path] = Module(module.cls.name.rpartition(".")[2], attributes)
    if not tensors:
        frozen = " (a frozen module's have no names: export it again before torch.jit.freeze)" if script else ""
        raise WeightsError(f"the file holds a {short(root.cls)} without any named tensor{frozen}")
    return Contents("TorchScript archive" if script else "pickled module", tensors, modules=modules)


def _modules(root: Foreign, limits: ImportLimits, *, script: bool) -> Iterator[tuple[str, Foreign]]:
    """Every module with its path, parents first."""
    waiting = [("", root, 0)]
    seen = 0
    while waiting:
        path, module, depth = waiting.pop()
        seen += 1
        if depth > limits.depth or seen > limits.names:
            raise WeightsError("the file's modules are nested without end")
        yield path, module
        state = module.state if isinstance(module.state, dict) else {}
        children = state if script else state.get("_modules")
        for name, child in children.items() if isinstance(children, dict) else ():
            if isinstance(child, Foreign) and (not script or child.cls.root == "__torch__"):
                _check(name, limits)
                waiting.append((f"{path}.{name}" if path else name, child, depth + 1))


def _check(name: Any, limits: ImportLimits) -> None:
    """A name that a sentence can hold, and that grows no path without end."""
    if not isinstance(name, str) or not 0 < len(name) <= limits.letters or not name.isprintable():
        raise WeightsError("the file has modules or tensors with names that none has: it is damaged")


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, (int, float, str))


def plain(value: Any) -> Any:
    """Settings as containers, numbers and text: of `argparse.Namespace`, of omegaconf 2.0 to 2.3, and of enumerations.

    Whatever is none of that becomes None. Each object is converted once, so that shared ones stay shared.
    """
    known: dict[int, Any] = {}

    def convert(value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in known:
            return known[id(value)]
        if depth > 50:
            return None
        known[id(value)] = None  # what refers to itself ends here
        result: Any = None
        if isinstance(value, dict):
            result = {key: convert(item, depth + 1) for key, item in value.items() if isinstance(key, (str, int))}
        elif isinstance(value, (list, tuple)):
            result = [convert(item, depth + 1) for item in value]
        elif isinstance(value, Foreign):
            result = convert(_inside(value), depth + 1)
        known[id(value)] = result
        return result

    return convert(value, 0)


def _inside(value: Foreign) -> Any:
    """What a settings object holds."""
    if isinstance(value.state, dict):
        for key in ("_content", "_val"):  # a container of omegaconf, a node of it
            if key in value.state:
                return value.state[key]
        return value.state  # a namespace, a dataclass
    return value.args[0] if len(value.args) == 1 else None  # an enumeration's member


def differences(net: nn.Module, modules: Mapping[str, Module]) -> list[str]:
    """Where the file's modules compute something else than the network's of the same path, one phrase each.

    Shapes do not tell strides, paddings, activations and the norms' eps, so they are compared where the file has them.
    """
    found = []
    for path, ours in net.named_modules():
        theirs = modules.get(path)
        if theirs is None:
            continue
        if isinstance(ours, nn.Conv1d):
            pairs = {name: getattr(ours, name) for name in ("stride", "padding", "dilation", "groups")}
        elif isinstance(ours, nn.BatchNorm1d):
            pairs = {"eps": ours.eps}
        elif isinstance(ours, (nn.LeakyReLU, nn.GELU, nn.Sigmoid)):
            pairs = {"negative_slope": ours.negative_slope} if isinstance(ours, nn.LeakyReLU) else {}
            if theirs.cls != type(ours).__name__:
                found.append(f"{path} is a {short(theirs.cls)} there and a {type(ours).__name__} here")
        else:
            continue
        for name, value in pairs.items():
            if name in theirs.attributes and theirs.attributes[name] != value:
                found.append(f"{path}.{name} is {short(theirs.attributes[name])} there and {value} here")
    return found


def packages(root: Any) -> tuple[str, ...]:
    """The packages of the classes that a file names, but for Python's own and torch; none was imported."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Name):
            found.add(value.root)
        if not isinstance(value, (dict, list, tuple, Foreign)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, Foreign):
            waiting.extend((value.cls, value.args, value.state, value.items, value.elements))
        else:
            waiting.extend(value)
    return tuple(sorted(found - sys.stdlib_module_names - {"torch", "__torch__", "__builtin__"}))
