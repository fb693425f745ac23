"""Folders as the Hugging Face Hub has them: ``model.safetensors``, ``config.json`` and a model card, ``README.md``."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from typing_extensions import Self, override

from icnet.deploy.api import Model, load
from icnet.deploy.convert import described, write_new, write_safetensors
from icnet.deploy.model_card import model_card
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models.checkpoints import Checkpoint
from icnet.models.imagenet_weights import download
from icnet.models.integrity import sha256
from icnet.models.weight_files import META_KEY

WEIGHTS = "model.safetensors"  # the Hub's names
CONFIG = "config.json"
CARD = "README.md"


class _WithoutHub:
    """Stands for the mixin where huggingface_hub is not installed: folders of this machine need nothing of it."""

    def push_to_hub(self, *_: object, **__: object) -> str:
        raise UserError(
            "push_to_hub needs huggingface_hub, which is not installed; run 'pip install huggingface_hub', "
            "or upload the folder that save_pretrained writes"
        )


def _hub_mixin() -> Any:
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError:
        return _WithoutHub
    return ModelHubMixin


HubMixin: Any = _hub_mixin()


class PretrainedModel(Model, HubMixin):
    """A trained network that opens and writes folders as the Hugging Face Hub has them; otherwise as ``icnet.load``'s.

    ::

        net = icnet.PretrainedModel.from_pretrained("outputs/DAY/TIME/checkpoints/best.ckpt")
        net.save_pretrained("folder", data_license="CC BY-NC-SA 3.0")
        net = icnet.PretrainedModel.from_pretrained("folder")
    """

    _sha256 = ""  # of the file that it was opened from

    @classmethod
    @override
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, force_download: bool = False,
        token: str | bool | None = None, cache_dir: str | Path | None = None, local_files_only: bool = False,
        revision: str | None = None, **model_kwargs: Any,
    ) -> Self:  # fmt: skip
        """Open a folder that ``save_pretrained`` wrote, such a folder on the Hub, or a checkpoint.

        Args:
            pretrained_model_name_or_path: A folder, a file that ``icnet.load`` opens, or an id such as ``OWNER/NAME``.
            force_download: This and all up to ``revision`` is for the download, as in huggingface_hub.
            token: See there.
            cache_dir: See there.
            local_files_only: See there.
            revision: See there.
            model_kwargs: What else ``icnet.load`` takes: ``device``, ``scales`` and so on.

        Raises:
            UserError: If there is no such folder, file or id, something in it is broken, or its two descriptions of the
                network differ; see also ``icnet.load``.
        """
        source = Path(pretrained_model_name_or_path).expanduser()
        files = {WEIGHTS: source / WEIGHTS, CONFIG: source / CONFIG}
        if source.is_file():
            files = {WEIGHTS: source}
        elif not source.is_dir():
            options = {
                "force_download": force_download, "token": token, "cache_dir": cache_dir,
                "local_files_only": local_files_only, "revision": revision,
            }  # fmt: skip
            files = _downloaded(str(pretrained_model_name_or_path), list(files), options)
        digest = sha256(files[WEIGHTS]) if files[WEIGHTS].is_file() else ""
        model = load(files[WEIGHTS], **model_kwargs)
        if CONFIG in files:
            _check_config(files[CONFIG], files[WEIGHTS])
        opened = cls(model.segmenter, model.inference, model.device)
        opened._sha256 = digest
        return opened

    @override
    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, data_license: str = "",
        results: str | os.PathLike[str] | None = None, config: object = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write the network's tensors, its description and its model card.

        Paths of this machine are left out of the description.

        Args:
            save_directory: The folder; it is made if missing.
            data_license: The licence of the data that it was trained on, in words for the card.
            results: The ``results.json`` that its scores are taken from: of an evaluation of the very file, or of the
                training in whose folder the file lies, which is found by itself.
            config: Of no use here; the mixin hands one over.
            model_card_kwargs: ``data_license`` and ``results``, as the mixin hands them over.

        Raises:
            UserError: If there is no licence, the results are missing or of another file, the network was not opened
                from a checkpoint, or one of the three files exists or cannot be written.
        """
        about: dict[str, Any] = {"data_license": data_license, "results": results, **(model_card_kwargs or {})}
        checkpoint = self._checkpoint()
        card = model_card(checkpoint, **about)
        folder = Path(save_directory).expanduser()
        there = [name for name in (WEIGHTS, CONFIG, CARD) if (folder / name).exists()]
        if there:
            raise UserError(f"{folder} has {' and '.join(there)} already; remove them or give another folder")
        description = _without_places(described(checkpoint))
        write_new(folder / WEIGHTS, lambda file: write_safetensors(replace(checkpoint, meta=description), file))
        write_new(folder / CONFIG, lambda file: file.write(f"{json.dumps(description, indent=2)}\n".encode()))
        write_new(folder / CARD, lambda file: file.write(card.encode()))

    @override
    def push_to_hub(
        self, repo_id: str, *, data_license: str = "", results: str | os.PathLike[str] | None = None, **options: Any
    ) -> str:
        """Upload what ``save_pretrained`` writes.

        Args:
            repo_id: Such as ``OWNER/NAME``.
            data_license: See ``save_pretrained``.
            results: See ``save_pretrained``.
            options: Whatever else huggingface_hub takes.

        Returns:
            The address.

        Raises:
            UserError: See ``save_pretrained``; nothing is made on the Hub then.
        """
        about: dict[str, Any] = {"data_license": data_license, "results": results}
        model_card(self._checkpoint(), **about)
        return str(super().push_to_hub(repo_id, model_card_kwargs=about, **options))

    def _checkpoint(self) -> Checkpoint:
        path = self.segmenter.path
        if path is None or not self._sha256:
            raise UserError("the network came from no file; open one with icnet.PretrainedModel.from_pretrained(PATH)")
        checkpoint = read_network(path).checkpoint
        if checkpoint.sha256 != self._sha256:
            raise UserError(f"{path} is not what it was when it was opened; open it again")
        return checkpoint


def _downloaded(source: str, names: list[str], options: Mapping[str, Any]) -> dict[str, Path]:
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"there is no folder or file {source}; give one, or an id of the Hub such as OWNER/NAME")
    try:
        return {name: download(source, name, **options) for name in names}
    except ImportError as error:
        raise UserError(
            f"{source} is no folder or file, and huggingface_hub, which could look it up as an id of the Hub, is not "
            "installed; give a folder or run 'pip install huggingface_hub'"
        ) from error
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise UserError(
            f"{source} is no folder or file and could not be downloaded from the Hub ({type(error).__name__}); "
            "check the id and the connection, or give a folder"
        ) from error


def _check_config(config: Path, weights: Path) -> None:
    """Refuse a folder whose two files describe different networks."""
    with safe_open(weights, framework="pt") as file:
        told = json.loads((file.metadata() or {}).get(META_KEY, "null"))
    try:
        same = told == json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({' '.join(str(error).split())}); restore it") from error
    if not same:
        raise UserError(f"{config} and the metadata of {weights.name} differ; restore the one that was changed")


def _without_places(value: Any) -> Any:
    """Return plain values with null for each absolute path: a published file tells nothing of this machine."""
    if isinstance(value, Mapping):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_places(inner) for inner in value]
    return None if isinstance(value, str) and os.path.isabs(value) else value
