"""The recipe as programs on memory laid out ahead: what they have in common, and reconstructions.

Level k lies between layers k - 1 and k; level 0 is the image. With f of level k, the activation of
the layer below it, the nodes are

    H[k+1] = f(c(K[k], H[k]) + b[k])                 up: encode
    D[k]   = f(h(K[k], D[k+1]) + a[k])               down: decode, from D[L] = H[L]

Where the layer below level k pools, F[k] is what it computes, H[k] the largest of each window, and
S[k] says where it was; on the way down the layer reads U[k], which is D[k] put back there.

Those of the gradients are in `convae.models.gradient_program`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convae.engine import Array
from convae.engine.backend import filters_last
from convae.engine.program import Program
from convae.models.activations import IDENTITY
from convae.models.parameters import Arrays

if TYPE_CHECKING:
    from convae.models.coder import Coder


class StackProgram:
    """What the programs of a model have in common: its arrays at every level, and the way up.

    Parameters
    ----------
    model : Coder
        The model.
    examples : int
        Examples of a batch, N.
    gradients : (M,) ndarray, optional
        What is given as the model's flat gradients.

    Attributes
    ----------
    given : dict
        The model's arrays, by the names under which the program declares them.
    """

    def __init__(self, model: Coder, examples: int, gradients: Array | None = None) -> None:
        self.model, self.N = model, examples
        self.program = Program()
        self.dtype = model.storage or model.dtype
        self.top = len(model.layers)
        self.given = given_arrays(model, gradients)
        for name, array in self.given.items():
            self.program.array(name, array.shape, array.dtype.name, given=True)

    def _shorten(self) -> None:
        """Copy the parameters, where activations are stored in a shorter type."""
        if self.dtype != self.model.dtype:
            self.program.do("convert", array="parameters", write={"out": "short parameters"})

    def _level_shapes(self) -> list[tuple[int, ...]]:
        """Shape of one example at every level, channels last."""
        shapes = [self.model.input_shape, *(layer.output_shape for layer in self.model.layers)]
        return [(*size, C) for C, *size in shapes]

    def _unpooled_shape(self, k: int) -> tuple[int, ...]:
        """Shape of one example of what is pooled at level k, channels last."""
        O, *size = self.model.layers[k - 1].unpooled_shape
        return (*size, O)

    def _window(self, k: int) -> tuple[int, ...] | None:
        """Return the window of what is pooled at level k; None where nothing is."""
        pooling = None if k == 0 else self.model.layers[k - 1].pooling
        return None if pooling is None else pooling.window

    def _switches(self, k: int) -> None:
        """Declare the switches of level k."""
        shape = (self.N, *self._level_shapes()[k])
        self.program.array(f"S{k}", shape, self.model.dtype)

    def _code(self, k: int) -> str:
        """Name what level k gives to the layer above it."""
        return "x" if k == 0 else f"H{k}"

    def _decoded(self, k: int) -> str:
        """Name the decoder's side of level k."""
        return f"H{k}" if k == self.top else f"D{k}"

    def _parameter(self, k: int, name: str) -> str | None:
        """Name a parameter of layer k as the products read it; None where there is none."""
        if name not in self.model.layers[k].shapes:
            return None
        is_short = name.endswith("kernel") and self.dtype != self.model.dtype
        return f"{'short ' if is_short else ''}{k}.{name}"

    def _encode(self, k: int) -> None:
        layer, window = self.model.layers[k], self._window(k + 1)
        H = f"H{k + 1}"
        self.program.do(
            "c",
            K=self._parameter(k, "kernel"),
            V=self._code(k),
            bias=self._parameter(k, "hidden_bias"),
            write={"Z": f"F{k + 1}" if window else H},
            settings={"geometry": layer.geometry, "activation": layer.hidden_activation},
        )
        if window:
            write = {"P": H, "switches": f"S{k + 1}"}
            self.program.do("pool", F=f"F{k + 1}", write=write, settings={"window": window})

    def _unpool(self, k: int, P: str, whole: str) -> str:
        """Put what is of level k back, if it was pooled; returns where the layer below finds it."""
        window = self._window(k)
        if window is None:
            return P
        write, settings = {"F": whole}, {"window": window}
        self.program.do("unpool", P=P, switches=f"S{k}", write=write, settings=settings)
        return whole

    def _decode(self, k: int, activate: bool = True) -> None:
        layer = self.model.layers[k]
        self.program.do(
            "h",
            K=self._parameter(k, layer.decoder_kernel),
            G=self._unpool(k + 1, self._decoded(k + 1), f"U{k + 1}"),
            bias=self._parameter(k, "visible_bias"),
            write={"V": f"D{k}"},
            settings={
                "geometry": layer.geometry,
                "activation": layer.visible_activation if activate else IDENTITY,
            },
        )


class ReconstructionProgram(StackProgram):
    """Builds the program that encodes and decodes batches of one size, or does one of both.

    Parameters
    ----------
    model : Coder
        The model.
    examples : int
        Examples of a batch, N.
    up, down : bool
        Whether it encodes and decodes; if it only decodes, the caller fills the uppermost code, and
        no layer may pool.

    Attributes
    ----------
    program : Program
        ``x``, which the caller fills, and ``D0``, the reconstruction, are (N, *size, C); D0 is what
        goes into the output activation, if the loss is of that.
    """

    def __init__(self, model: Coder, examples: int, up: bool = True, down: bool = True) -> None:
        super().__init__(model, examples)
        for k, shape in enumerate(self._level_shapes()):
            self._array(f"visible {k}", self._code(k), shape)
            if up and down and 0 < k < self.top:  # the code has been read when D is written
                self.program.part(f"D{k}", f"visible {k}")
            elif k < self.top:
                self._array(f"hidden {k}", f"D{k}", shape)
            if self._window(k):
                self._switches(k)
                self._array(f"unpooled {k}", f"F{k}", self._unpooled_shape(k))
                self.program.part(f"U{k}", f"unpooled {k}")
        self._shorten()
        for k in range(self.top) if up else ():
            self._encode(k)
        for k in reversed(range(self.top)) if down else ():
            self._decode(k, activate=k > 0 or not (up and model.of_logits))

    def _array(self, block: str, name: str, shape: tuple[int, ...]) -> None:
        """Declare an array in memory that the gradients' program also uses, at other times."""
        self.program.array(block, (self.N, *shape), self.dtype)
        self.program.part(name, block)


def given_arrays(model: Coder, gradients: Array | None = None) -> dict[str, Array]:
    """Return the model's arrays as its program declares them: "0.kernel", its gradient "d0.kernel".

    "parameters" and "gradients" are the flat vectors that hold them, the gradients perhaps in
    another one than the model's. Where activations are stored
    in a shorter type, "short 0.kernel" is a copy in that type.
    """
    gradients = model.flat_gradients if gradients is None else gradients
    found = {"parameters": model.flat_parameters, "gradients": gradients}
    found |= _in_memory(model, "", model.parameters)
    found |= _in_memory(model, "d", model.views(gradients))
    if model.storage is not None:
        short = found["short parameters"] = model.flat_parameters.astype(model.storage)
        found |= _in_memory(model, "short ", model.views(short))
    return found


def _in_memory(model: Coder, prefix: str, arrays: Arrays) -> dict[str, Array]:
    """View named arrays in the order of their memory: kernels have their filters last."""
    axes = len(model.input_shape) - 1
    return {
        f"{prefix}{name}": filters_last(array, axes) if name.endswith("kernel") else array
        for name, array in arrays.items()
    }
