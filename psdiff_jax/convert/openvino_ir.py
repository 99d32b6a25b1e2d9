"""The weights of an OpenVINO IR: the network in an .xml, its numbers in the .bin beside it. Needs no `openvino`."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from psdiff_jax.errors import InputError

_FLOATS = {"f16": "<f2", "f32": "<f4", "f64": "<f8"}
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def read_openvino_ir(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of the weights of convolutions and linear layers, and of their biases, in PyTorch's axes; scale and
    shift ("MVN_565.weight", "MVN_565.bias") of normalisations by a map's own statistics; slopes of PReLUs.

    In the order of the layers; a bias is what is added to a layer's result, and what a linear layer's result is scaled
    and shifted by after that (BatchNorm) is folded into it. A tensor that has its name from PyTorch keeps it
    ("Copy_neck.conv.weight/Output_0" is "neck.conv.weight"); others are named after their layer: "370.weight" and
    "370.bias". Constants that no such layer reads, such as anchors and axes, are left away.

    Raises:
      InputError: not an IR, without its .bin or with a truncated one, or quantised.
    """
    try:
        graph = _Graph(path)
        arrays: dict[str, np.ndarray] = {}
        for layer in graph.layers.values():
            if layer.get("type") in _WEIGHTED and (weight := graph.weight(layer)) is not None:
                name, array = weight
                if not np.array_equal(arrays.get(f"{name}.weight", array), array):  # of another layer
                    name = _layer_name(layer)
                added, bias = graph.bias(layer, len(array))
                if layer.get("type") == "MatMul" and (affine := graph.affine(added)).keys() == {"weight", "bias"}:
                    array = array * affine["weight"][:, None]
                    bias = affine["bias"] + (0 if bias is None else bias * affine["weight"])
                arrays[f"{name}.weight"] = array
                if bias is not None:
                    arrays[f"{name}.bias"] = bias
            elif layer.get("type") == "MVN":
                affine = graph.affine(layer.attrib["id"])
                arrays |= {f"{_layer_name(layer)}.{leaf}": array for leaf, array in affine.items()}
            elif layer.get("type") == "PReLU" and (slope := graph.constant(graph.inputs[layer.attrib["id"]][1])):
                arrays[f"{_layer_name(layer)}.weight"] = slope[1].reshape(-1)
    except InputError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not a readable OpenVINO IR") from error
    return arrays


class _Graph:
    """The layers of an IR by id, and what they read: inputs[id][port] = id of the layer before."""

    def __init__(self, path: Path):
        self.path, self.binary = path, path.with_suffix(".bin")
        root = ElementTree.parse(path).getroot()
        self.layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        if root.tag != "net" or not self.layers:
            raise ValueError(f"<{root.tag}>")
        if not self.binary.is_file():
            raise InputError(f"{path}: the weights of an IR are in {self.binary.name} beside it, which is missing")
        self.content = memoryview(self.binary.read_bytes())
        self.inputs: dict[str, list[str]] = {}
        for edge in sorted(root.iterfind("edges/edge"), key=lambda edge: int(edge.attrib["to-port"])):
            self.inputs.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])

    def weight(self, layer: ElementTree.Element) -> tuple[str, np.ndarray] | None:
        """(name without its ".weight", kernel [O,I,...]) of a layer; None for a product of two computed tensors."""
        constant = self.constant(self.inputs[layer.attrib["id"]][1])
        if constant is None:
            if layer.get("type") == "MatMul":
                return None
            name = _layer_name(layer)
            raise InputError(
                f"{self.path}: the weights of layer {name!r} are computed; is it quantised? Give FP16 or FP32"
            )
        name, array = constant
        if layer.get("type") == "GroupConvolution":  # [G, O/G, I/G, ...]
            array = array.reshape(-1, *array.shape[2:])
        if layer.get("type") == "MatMul" and layer.find("data[@transpose_b='true']") is None:
            array = array.swapaxes(-1, -2)
        named = re.match(r"(?:Copy_)?([A-Za-z_][\w.]*)\.weight", name)
        return (named[1] if named else _layer_name(layer)), array

    def bias(self, layer: ElementTree.Element, width: int) -> tuple[str, np.ndarray | None]:
        """(the layer that adds a constant [O] to what a layer gives, the constant); (the layer itself, None)."""
        place = layer.attrib["id"]
        for after, before in self.inputs.items():
            if place in before and self.layers[after].get("type") == "Add":
                constants = [self.constant(other) for other in before if other != place]
                if constants and constants[0] is not None and constants[0][1].size == width:
                    return after, constants[0][1].reshape(-1)
        return place, None

    def affine(self, place: str) -> dict[str, np.ndarray]:
        """What a layer's result is multiplied with ("weight") and what is added then ("bias"), each [C]; only what
        there is."""
        found: dict[str, np.ndarray] = {}
        for kind, leaf in (("Multiply", "weight"), ("Add", "bias")):
            after = self.after(place)
            while after is not None and self.layers[after].get("type") == "Reshape":
                place, after = after, self.after(after)
            if after is None or self.layers[after].get("type") != kind:
                break
            constants = [self.constant(other) for other in self.inputs[after] if other != place]
            if not constants or constants[0] is None:  # a map is multiplied with another, or with itself
                break
            found[leaf] = constants[0][1].reshape(-1)
            place = after
        return found

    def after(self, place: str) -> str | None:
        """The layer that reads another's result, if it is one alone; what asks for shapes does not count."""
        readers = [
            i for i, before in self.inputs.items() if place in before and self.layers[i].get("type") != "ShapeOf"
        ]
        return readers[0] if len(readers) == 1 else None

    def constant(self, place: str) -> tuple[str, np.ndarray] | None:
        """(name, array) of a floating-point constant, behind conversions of its type; None where there is none."""
        layer = self.layers[place]
        if layer.get("type") == "Convert":
            return self.constant(self.inputs[place][0])
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or data.attrib["element_type"] not in _FLOATS:
            return None
        shape = [int(side) for side in data.get("shape", "").split(",") if side.strip()]
        start, size = int(data.attrib["offset"]), int(data.attrib["size"])
        if start + size > len(self.content):
            raise InputError(f"{self.binary}: truncated: {self.path.name} has weights up to byte {start + size}")
        array = np.frombuffer(self.content[start : start + size], _FLOATS[data.attrib["element_type"]])
        return layer.get("name", ""), array.reshape(shape)


def _layer_name(layer: ElementTree.Element) -> str:
    # A slash would make it a name of ours.
    return layer.get("name", "").removesuffix("/WithoutBiases").replace("/", ".")
