"""Make up files that are well-formed but odd, by hypothesis, for the readers of foreign bytes.

`fuzz_forms` spoils the bytes of valid files. These files are written from a description instead, by
the library of their format, so that a reader gets far; and hypothesis makes a finding smaller.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import made_up_archives as archives
import made_up_arrays as arrays
import made_up_texts as texts
from fuzz_target import Files, Target
from hypothesis import strategies as st
from made_up_pictures import folders, picture_file
from made_up_texts import Draw

_FORMS: dict[str, Callable[[Draw, bytes], bytes]] = {
    ".json": texts.json_file,
    ".log": texts.json_lines,
    ".toml": texts.toml_file,
    ".yaml": texts.yaml_file,
    ".csv": texts.table_file,
    ".txt": texts.words_file,
    ".xml": texts.xml_file,
    ".npz": arrays.zip_file,
    ".keras": arrays.zip_file,
    ".h5": arrays.hdf5_file,
    ".pth": arrays.checkpoint_file,
    ".tar": archives.tar_file,
    ".parquet": archives.parquet_file,
    "data.gz": archives.cifar_file,
    "ubyte.gz": arrays.gzip_idx_file,
    "ubyte": arrays.idx_file,
}


@st.composite
def cases(draw: Draw, target: Target) -> Files:
    """Draw cases of a target: one of its valid cases, in which one or two files are made up.

    Args:
        draw: Given by hypothesis.
        target: The reader.
    """
    seeds = target.seeds
    seed = seeds[draw(st.integers(0, len(seeds) - 1))]
    if target.name == "images" and draw(st.booleans()):
        return draw(folders(seed))
    made = dict(seed)
    names = [name for name in made if name not in target.fixed]
    changed = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    for name in changed:
        made[name] = made_up(draw, name, made[name])
    if len(made) > 1 and draw(st.integers(0, 30)) == 30:
        del made[changed[0]]
    return made


def made_up(draw: Draw, name: str, content: bytes) -> bytes:
    """Return a file of the kind that its name says.

    Args:
        draw: Given by hypothesis.
        name: The name.
        content: A valid file of the kind. What is made up has its shape, or parts of it.
    """
    endings = os.path.splitext(name)[1], name, name[-8:], name[-5:]
    form = next((_FORMS[each] for each in endings if each in _FORMS), picture_file)
    with warnings.catch_warnings():
        # Libraries warn about odd values.
        warnings.simplefilter("ignore")
        return form(draw, content)
