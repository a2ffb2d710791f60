"""Loss and gradients as a program on memory laid out ahead.

With the levels of `convae.models.programs`, f that of a level and f_out the output activation, its
nodes behind those of the way up and down are

    E[0]   = dJ/dR through f_out                     R = f_out(h(K[0], D[1]) + a[0]) is not kept
    E[k]   = c(K[k-1], E[k-1]) * f'(D[k])            up: the decoder's half
    dZ[L]  = c(K[L-1], E[L-1]) * f'(H[L])
    dZ[k]  = h(K[k], dZ[k+1]) * f'(H[k])             down: the encoder's half
    dK[k]  = g([D[k+1]; dZ[k+1]], [E[k]; H[k]])      both halves at once

because g sums over examples: each pair lies in memory as one batch of 2N.

Where level k is pooled, the two c of level k take what S[k] points at before f' is multiplied, and
the layer below reads dZ[k] put back there: F[k] from then on. So its g is of [U[k]; F[k]].
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from convae.engine import Array
from convae.models.penalties import Penalty
from convae.models.programs import StackProgram

if TYPE_CHECKING:
    from convae.models.autoencoder import Autoencoder


class GradientProgram(StackProgram):
    """Builds the program of a model for batches of one size.

    Parameters
    ----------
    model : Autoencoder
        The model.
    examples : int
        Examples of a batch, N.
    penalty : Penalty
        What is added to the loss.
    has_target : bool
        Whether reconstructions are compared with other images than the model is given.
    whole : int, optional
        Examples of the batch of which this is a chunk: the loss is a mean over that.
    gradients : (M,) ndarray, optional
        Where the gradients go; by default to the model's `flat_gradients`.

    Attributes
    ----------
    program : Program
        Its arrays are ``x`` and ``target``, (N, *size, C), which the caller fills, the loss ``J``,
        the given ones that `given_arrays` names, and those between.
    """

    def __init__(
        self,
        model: Autoencoder,
        examples: int,
        penalty: Penalty,
        has_target: bool,
        whole: int | None = None,
        gradients: Array | None = None,
    ) -> None:
        super().__init__(model, examples, gradients)
        self.loss, self.penalty, self.whole = model.loss, penalty, whole or examples
        # where activations are short, errors are kept from underflowing and divided again
        self.scale = 1 if self.dtype == model.dtype else examples * prod(model.input_shape)
        self._declare(has_target or self.dtype != model.dtype)
        self._shorten()
        top = self.top
        for k in range(top):
            self._encode(k)
        for k in reversed(range(1, top)):
            self._decode(k)
        self._compare()
        extras = dict(self._penalise())
        for k in range(1, top + 1):
            self._error_upwards(k, extras.get(k))
        for k in reversed(range(1, top)):
            self._gradient_downwards(k, extras.get(k))
        for k in range(top):
            self._parameter_gradients(k)
        self._penalise_kernels()

    def _declare(self, separate_target: bool) -> None:
        """Declare parameters, gradients and the batches of every level."""
        program, model, N = self.program, self.model, self.N
        program.array("J", (), "float64")
        shapes = self._level_shapes()
        for k, shape in enumerate(shapes):
            pair = ((N, *shape), self.dtype)
            if k < self.top:
                program.halves(f"visible {k}", f"E{k}", self._code(k), *pair)
            if k > 0:
                program.halves(f"hidden {k}", self._decoded(k), f"dZ{k}", *pair)
            if self._window(k):
                self._switches(k)
                whole = (N, *self._unpooled_shape(k))
                program.halves(f"unpooled {k}", f"U{k}", f"F{k}", whole, self.dtype)
        if separate_target:
            program.array("target", (N, *shapes[0]), model.dtype)
        self.target = "target" if separate_target else "x"

    def _error(self, k: int) -> str:
        """Name the gradient before level k's activation, on the decoder's side."""
        return f"dZ{k}" if k == self.top else f"E{k}"

    def _outputs(self, k: int, at_level: str, unpooled: str) -> str:
        """Choose what is of the outputs of the layer below level k: `unpooled`, if it pools."""
        return unpooled if self._window(k) else at_level

    def _compare(self) -> None:
        layer = self.model.layers[0]
        self.program.do(
            "error",
            K=self._parameter(0, layer.decoder_kernel),
            G=self._unpool(1, self._decoded(1), "U1"),
            bias=self._parameter(0, "visible_bias"),
            target=self.target,
            write={"E": "E0", "J": "J"},
            settings={
                "geometry": layer.geometry,
                "activation": layer.visible_activation,
                "loss": self.loss,
                "count": self.whole * prod(self.model.input_shape),
                "scale": self.scale,
            },
        )

    def _error_upwards(self, k: int, extra: str | None) -> None:
        layer, window = self.model.layers[k - 1], self._window(k)
        H, extra, slope = (
            self._decoded(k),
            extra if k == self.top else None,
            layer.hidden_activation,
        )
        self.program.do(
            "c",
            K=self._parameter(k - 1, layer.decoder_kernel),
            V=self._error(k - 1),
            H=None if window else H,
            extra=None if window else extra,
            write={"Z": f"F{k}" if window else self._error(k)},
            settings={"geometry": layer.geometry, "slope": None if window else slope},
        )
        if window:
            self.program.do(
                "take",
                F=f"F{k}",
                switches=f"S{k}",
                H=H,
                extra=extra,
                write={"P": self._error(k)},
                settings={"window": window, "slope": slope},
            )
        if k == self.top:
            self._unpool(k, f"dZ{k}", f"F{k}")

    def _gradient_downwards(self, k: int, extra: str | None) -> None:
        layer = self.model.layers[k]
        self.program.do(
            "h",
            K=self._parameter(k, "kernel"),
            G=self._outputs(k + 1, f"dZ{k + 1}", f"F{k + 1}"),
            H=f"H{k}",
            extra=extra,
            write={"V": f"dZ{k}"},
            settings={"geometry": layer.geometry, "slope": layer.visible_activation},
        )
        self._unpool(k, f"dZ{k}", f"F{k}")

    def _parameter_gradients(self, k: int) -> None:
        layer = self.model.layers[k]
        inverse = None if self.scale == 1 else 1 / self.scale
        encoder = self._outputs(k + 1, f"dZ{k + 1}", f"F{k + 1}")
        both = self._outputs(k + 1, f"hidden {k + 1}", f"unpooled {k + 1}")
        halves = {"kernel": (both, f"visible {k}")}
        if not layer.spec.tied:
            decoder = self._outputs(k + 1, self._decoded(k + 1), f"U{k + 1}")
            halves["kernel"] = (encoder, self._code(k))
            halves["decoder_kernel"] = (decoder, self._error(k))
        for name, (G, V) in halves.items():
            settings = {"geometry": layer.geometry, "scale": inverse}
            write = {"dK": f"d{k}.{name}"}
            self.program.do("g", G=G, V=V, write=write, settings=settings)
        for name, G in (("hidden_bias", encoder), ("visible_bias", self._error(k))):
            if name in layer.shapes:
                write = {"db": f"d{k}.{name}"}
                self.program.do("bias_gradient", G=G, write=write, settings={"scale": inverse})

    def _penalise(self) -> Iterator[tuple[int, str]]:
        """Penalise codes and slopes; yields the arrays to be added to the gradients of levels."""
        program, penalty, top = self.program, self.penalty, self.top
        shapes = self._level_shapes()
        for k in range(1, top + 1):
            layer, H = self.model.layers[k - 1], f"H{k}"
            penalises_code = k == top and (penalty.l1 or penalty.kl)
            curved = penalty.contractive and layer.hidden_activation.curvature is not None
            if not penalises_code and not penalty.contractive:
                continue
            extra = program.array(f"extra {k}", (self.N, *shapes[k]), self.dtype)
            if penalises_code:
                mean = None
                if penalty.kl:
                    mean = program.array("mean", (shapes[k][-1],), self.dtype)
                    program.do("mean_activation", H=H, write={"mean": mean})
                program.do(
                    "code_penalty",
                    H=H,
                    mean=mean,
                    write={"extra": extra},
                    update={"J": "J"},
                    settings={"penalty": penalty, "count": self.whole * prod(shapes[k])},
                )
            elif curved:
                program.do("clear", write={"out": extra})
            if penalty.contractive:
                self._contract(k, extra if curved else None)
            if penalises_code or curved:
                yield k, extra

    def _contract(self, k: int, extra: str | None) -> None:
        """Penalise the slopes of the layer below level k."""
        program, layer = self.program, self.model.layers[k - 1]
        shapes, f = self._level_shapes(), layer.hidden_activation
        K, strength = f"{k - 1}.kernel", self.penalty.contractive / self.whole
        kernel = program.slots[K]
        ones = program.array(f"ones {k}", (1, *shapes[k - 1]), self.dtype, filling=1.0)
        squares = program.array(f"squared kernel {k}", kernel.shape, kernel.dtype)
        slopes = program.array(f"squared slopes {k}", (1, *shapes[k]), self.dtype)
        W = program.array(f"W{k}", (1, *shapes[k]), self.dtype)
        program.array(f"slopes of kernel {k}", kernel.shape, kernel.dtype)
        how = {"geometry": layer.geometry}
        program.do("square", K=K, write={"squares": squares})
        program.do("c", K=squares, V=ones, write={"Z": W}, settings=how)
        program.do("squared_slopes", H=f"H{k}", write={"squares": slopes}, settings={"f": f})
        program.do("g", G=slopes, V=ones, write={"dK": f"slopes of kernel {k}"}, settings=how)
        if extra is not None:
            program.do(
                "contraction_code",
                H=f"H{k}",
                W=W,
                update={"extra": extra},
                settings={"f": f, "strength": strength},
            )

    def _penalise_kernels(self) -> None:
        """Add the penalties' gradients in the kernels, behind those of the loss."""
        program, penalty = self.program, self.penalty
        for k, layer in enumerate(self.model.layers):
            if penalty.contractive:
                program.do(
                    "contraction",
                    squares=f"squared slopes {k + 1}",
                    W=f"W{k + 1}",
                    K=f"{k}.kernel",
                    slopes=f"slopes of kernel {k + 1}",
                    update={"dK": f"d{k}.kernel", "J": "J"},
                    settings={"strength": penalty.contractive / self.whole},
                )
            for name in dict.fromkeys(("kernel", layer.decoder_kernel)):
                if penalty.weight_decay:
                    program.do(
                        "kernel_decay",
                        K=f"{k}.{name}",
                        update={"dK": f"d{k}.{name}", "J": "J"},
                        settings={"strength": penalty.weight_decay},
                    )
