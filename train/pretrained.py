"""Encoders that come with serkit: finished runs that imitate a teacher, without what only imitating needs.

Who starts from one needs neither its teacher nor the hour that it took, and its corpora only to hear them again
(`serkit.train.consistency`). ``python -m serkit.train.pretrained RUN`` makes one of a run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from serkit.edge.errors import SerkitError
from serkit.train.recipe import Recipe
from serkit.train.runs import RunState, load_trained, read_run, same_recipe, write_json

FOLDER = Path(__file__).parent / "encoders"


def pretrained(recipe: Recipe) -> Path | None:
    """The folder of the encoder that this very recipe trained; None if none comes with serkit."""
    folder = FOLDER / recipe.name
    return folder if same_recipe(recipe, folder) else None


def keep(run: Path, folder: Path = FOLDER) -> Path:
    """Make a run that imitates a teacher one of those that come with serkit.

    Raises:
        SerkitError: It is not finished, or no such run.
    """
    import keras

    recipe, _, _ = read_run(run)
    if not recipe.teacher.alone or not RunState(run).state.get("finished"):
        raise SerkitError(f"{run}: only an encoder that has finished imitating a teacher comes with serkit")
    encode = load_trained(run).get_layer("encode")
    inputs = keras.Input(encode.input_shape[1:], name="log_mel")
    out = folder / recipe.name
    out.mkdir(parents=True, exist_ok=True)
    keras.Model(inputs, encode(inputs)).save(out / "model.keras")
    for name in ("config.json", "split.json", "metrics.json", "environment.json"):
        shutil.copyfile(run / name, out / name)
    write_json(out / "state.json", {"finished": True})
    return out


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m serkit.train.pretrained RUN, a finished run that imitates a teacher")
    try:
        print(keep(Path(sys.argv[1])))
    except SerkitError as error:
        sys.exit(str(error))
