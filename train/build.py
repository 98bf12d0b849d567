"""From a recipe to its untrained Keras model."""

from __future__ import annotations

from inspect import signature
from typing import Any

from serkit.edge.errors import SettingsError
from serkit.train.recipe import Recipe
from serkit.train.zoo import SYSTEMS, is_encoded


def build_system(recipe: Recipe, *, twin: bool = False) -> Any:
    """The recipe's untrained Keras model.

    Raises:
        SettingsError: No such system, or an option its builder does not take.
    """
    if recipe.system not in SYSTEMS:
        raise SettingsError(f"no system {recipe.system!r}; choose one of {', '.join(SYSTEMS)}")
    shape = (recipe.window.input_frames, recipe.frontend.n_features)
    build = SYSTEMS[recipe.system].build
    known = [n for n, p in signature(build).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "twin"]
    if unknown := sorted(set(recipe.model) - set(known)):
        raise SettingsError(f"recipe {recipe.name}, [model]: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        model = build(*shape, len(recipe.labels), twin=twin, **recipe.model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"recipe {recipe.name}, [model]: {error}") from None
    w = recipe.window
    if is_encoded(model) and (w.normalisation != "none" or w.range_db or w.n_frames % w.hop_frames):
        raise SettingsError(
            f"recipe {recipe.name}, [window]: {recipe.system} encodes every hop once, whatever window it is in; that "
            "needs normalisation = 'none', range_db = 0 and n_frames a multiple of hop_frames"
        )
    return model
