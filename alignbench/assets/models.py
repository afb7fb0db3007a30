"""Which model a name means, an alias, a folder or a Hub id, and the digest of what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from alignbench.assets.catalog import ASSETS
from alignbench.assets.fetch import asset_folder
from alignbench.assets.folders import checksums, kept, manifest_of
from alignbench.assets.toys import TOYS, build_toy, recipe_sha256
from alignbench.errors import UserError, nearest
from alignbench.store.paths import expanded, is_hub_id

MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"})  # config, weights, tokenizer
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")  # what architectures call it


def resolve_model(model: str) -> Path | str:
    """An alias or a folder as a path; a Hub id as it stands. A toy model is built when it is first asked for."""
    aliases = [*(name for name, asset in ASSETS.items() if asset.is_model), *TOYS]
    if model in TOYS:
        return _toy_folder(model)
    if model in aliases:
        return asset_folder(model)
    folder = expanded(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise UserError(f"model '{model}' holds no config.json: name a folder written by save_pretrained")
    if is_hub_id(model):
        return model
    raise UserError(
        f"model '{model}' is neither an alias, a folder nor a Hub id `owner/name`; {nearest(model, aliases)}"
    )


def model_digest(model: str) -> str:
    """sha256 of what the model is: its files, or for a Hub id the name and the cached commit.

    Before its first download a Hub id has no commit, so its digest changes once, when the download names one.
    """
    resolved = resolve_model(model)
    if isinstance(resolved, str):
        return hashlib.sha256(f"{resolved}@{_cached_commit(resolved)}".encode()).hexdigest()
    if model in ASSETS or model in TOYS:
        files = manifest_of(resolved)["files"]
    else:
        files = checksums(path for path in resolved.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file())
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def weight_bytes(model: str) -> int:
    """Of the model's weights on the disk. 0: not known, as of a Hub id, or of weights that are no safetensors."""
    return sum(file.stat().st_size for file in Path(resolve_model(model)).glob("*.safetensors"))


def layer_count(model: str) -> int:
    """Blocks of the model, as its config names them. 0: not known, as of a Hub id."""
    folder = resolve_model(model)
    try:
        config = {} if isinstance(folder, str) else json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0  # the model does not load either, which says more
    found = [config[name] for name in LAYER_COUNTS if isinstance(config, dict) and isinstance(config.get(name), int)]
    return found[0] if found else 0


def _toy_folder(name: str) -> Path:
    def fill(built: Path) -> dict[str, str]:
        build_toy(name, built)
        return {"source": "alignbench.assets.toys", "note": "random weights, for the oracle task"}

    return kept(name, recipe_sha256(), fill)


def _cached_commit(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache  # half a second, and only Hub ids need it

    path = try_to_load_from_cache(hub_id, "config.json")
    return Path(path).parent.name if isinstance(path, str) else ""
