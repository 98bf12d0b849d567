"""From a recipe to its untrained Keras model."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from serkit.edge.errors import SettingsError
from serkit.train.augment import AugmentSettings
from serkit.train.recipe import Recipe
from serkit.train.zoo import SYSTEMS, System, is_encoded


def system_of(recipe: Recipe) -> System:
    """The recipe's system.

    Raises:
        SettingsError: No such system.
    """
    if recipe.system not in SYSTEMS:
        raise SettingsError(f"no system {recipe.system!r}; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[recipe.system]


def draws_epochs(recipe: Recipe) -> bool:
    """Whether windows are drawn from recordings, epoch by epoch; else they are only those that the device cuts."""
    return system_of(recipe).fit is None or recipe.augment != AugmentSettings()


def encoder_of(recipe: Recipe) -> dict[str, Any]:
    """The options of the encoder that a recipe's system shares with others, and the frames it is shown; or none."""
    encoder = system_of(recipe).encoder
    if not encoder:
        return {}
    options = {n: recipe.model.get(n, p.default) for n, p in signature(encoder).parameters.items() if _is_option(n, p)}
    plain = {n: list(value) if isinstance(value, (list, tuple)) else value for n, value in options.items()}
    return plain | {"input_frames": recipe.window.input_frames}


def _is_option(name: str, parameter: Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY and name != "twin"


def build_system(recipe: Recipe, *, twin: bool = False) -> Any:
    """The recipe's untrained Keras model.

    Raises:
        SettingsError: No such system, or an option its builder does not take.
    """
    system = system_of(recipe)
    shape = (recipe.window.input_frames, recipe.frontend.n_features)
    makers = [f for f in (system.encoder, system.build) if f]
    known = [n for f in makers for n, p in signature(f).parameters.items() if _is_option(n, p)]
    if unknown := sorted(set(recipe.model) - set(known)):
        raise SettingsError(f"recipe {recipe.name}, [model]: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        model = system.build(*shape, len(recipe.labels), twin=twin, **recipe.model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"recipe {recipe.name}, [model]: {error}") from None
    w = recipe.window
    if is_encoded(model) and (w.normalisation != "none" or w.range_db or w.n_frames % w.hop_frames):
        raise SettingsError(
            f"recipe {recipe.name}, [window]: {recipe.system} encodes every hop once, whatever window it is in; that "
            "needs normalisation = 'none', range_db = 0 and n_frames a multiple of hop_frames"
        )
    return model
