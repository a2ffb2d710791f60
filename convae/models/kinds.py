"""The kinds of models, by the names that files and configurations give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convae.errors import check_choice
from convae.models.autoencoder import Autoencoder
from convae.models.classifier import Classifier
from convae.models.model import Model
from convae.models.rbm import RBM
from convae.models.sparse_coding import SparseCoding

KINDS: dict[str, type[Model]] = {
    kind.kind: kind for kind in (Autoencoder, SparseCoding, RBM, Classifier)
}
"""All kinds; a new one is a file of its own and listed here."""


def described(description: Mapping[str, Any], **how: Any) -> Model:
    """Make the model that `Model.description` describes; `how` says where it lives.

    Without a kind it is an autoencoder, the only one that older files know.
    """
    kind = description.get("kind", Autoencoder.kind)
    check_choice("kind", kind, KINDS)
    made: Any = KINDS[kind]
    model: Model = made(**description["model"], **how)
    return model
