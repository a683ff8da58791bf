"""Training of a small CLIP: pictures, captions and a text teacher in, a text tower for a denoiser out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from conditioning.clip.bpe import train_bpe
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.training.clip_batch import ClipBatch, ClipBatcher, kept_patches
from conditioning.training.infonce import describes, info_nce, teacher_distance, word_loss
from conditioning.training.teacher import Progress, SentenceTeacher, TeacherTable, silent
from conditioning.training.towers import ClipTowers, TowerOutput


@dataclass(frozen=True)
class ClipConfig:
    """Shape of the two towers and weights of the losses.

    Attributes:
        vocab_size: upper bound of the byte-pair vocabulary (512 of them are bytes).
        context_length: tokens a prompt is padded to, BOS and EOS included.
        patch_keep: share of the picture's patches that a training step looks at, in (0, 1].
        hard_negatives: chance that a caption is also shown with a wrong word, in [0, 1].
        sentences: sentences without picture per picture, in [0, 1].
        teacher_weight, words_weight: weights of the two terms beside the contrastive one.
        teacher_captions: how many captions the teacher embeds at most; sentences it embeds all.
        max_scale: bound of the inverse temperature (Radford et al. 2021, sec. 2.5).
        save_vision: whether the export also holds `clip/`, both towers as a transformers CLIPModel.
    """

    vocab_size: int = 4096
    context_length: int = 32
    text_width: int = 256
    text_layers: int = 4
    text_heads: int = 4
    image_size: int = 64
    patch_size: int = 8
    image_width: int = 192
    image_layers: int = 5
    image_heads: int = 3
    projection_dim: int = 256
    patch_keep: float = 0.5
    hard_negatives: float = 0.25
    sentences: float = 0.25
    teacher_weight: float = 1.0
    words_weight: float = 0.5
    teacher_captions: int = 50_000
    max_scale: float = 100.0
    save_vision: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")
        if not 0 < self.patch_keep <= 1:
            raise ValueError(f"patch_keep={self.patch_keep} is no share; use a number above 0 and up to 1")
        for name in ("hard_negatives", "sentences"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is no share; use a number from 0 to 1")


class ClipObjective:
    """The objective of a CLIP training: contrastive + teacher_weight * teacher + words_weight * words.

    The contrastive term makes the text state at EOS agree with its picture. Alone, it reaches no other state of the
    last layer and keeps only what tells the captions of a batch apart. A denoiser reads every token state, so two more
    terms act on those. The teacher term trains the states of EOS and of the last word to carry the meaning of the text
    up to there; the tower is causal, so the state of "kitten" in "a kitten" is the one it has in "a kitten, 3d style".
    The word term predicts from a token's state the token itself and the words before it, so that noun, style, count and
    colour stay linearly readable.

    In distributed training the negatives are those of the process's own batch.
    """

    def __init__(
        self,
        config: ClipConfig,
        tokenizer: ClipTokenizer,
        sentences: Sequence[str] = (),
        table: TeacherTable | None = None,
    ) -> None:
        """Make the towers, whose initial weights come from torch's global generator.

        Args:
            config: of the towers and the losses.
            tokenizer: of the text tower.
            sentences: texts without pictures.
            table: the teacher's embeddings, None to train without a teacher.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.table = table
        self._batcher = ClipBatcher(tokenizer, sentences, config.hard_negatives, config.sentences)
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        towers = build_towers(config, len(tokenizer), special, table.width if table is not None else None)
        self.trained_modules: dict[str, nn.Module] = {"clip": towers}

    @classmethod
    def build(
        cls,
        config: ClipConfig,
        captions: Sequence[str],
        folder: str | Path,
        sentences: Sequence[str] = (),
        teacher: SentenceTeacher | None = None,
        progress: Progress = silent,
    ) -> "ClipObjective":
        """Train the tokenizer on captions and sentences, embed them with the teacher (once), make the towers.

        Args:
            config: of the towers and the losses.
            captions: of all pictures.
            folder: gets `tokenizer/` and the teacher's cache. The same arguments give the same tokenizer.
            sentences: texts without pictures.
            teacher: a sentence encoder; None to train without.
            progress: of the teacher's work.
        """
        folder = Path(folder)
        train_bpe([*captions, *sentences], config.vocab_size, folder / "tokenizer", config.context_length - 2)
        tokenizer = ClipTokenizer.from_folder(folder / "tokenizer")
        table = None
        if teacher is not None:
            chosen = sorted(set(captions), key=lambda text: hashlib.sha256(text.encode()).digest())
            table = TeacherTable.build([*chosen[: config.teacher_captions], *sentences], teacher, folder, progress)
        return cls(config, tokenizer, sentences, table)

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        """Losses of a batch {"image": (B, 3, H, W) in [-1, 1], "caption": B texts}; `samples_seen` changes nothing.

        Keys: loss, contrastive, teacher (with a table), words, scale, accuracy (pictures that find their caption).

        Raises:
            ValueError: the pictures are not of the configured size.
        """
        image, device = batch["image"], batch["image"].device
        size = self.config.image_size
        if tuple(image.shape[-2:]) != (size, size):
            raise ValueError(f"pictures are {tuple(image.shape[-2:])}, image_size={size}; load them at that size")
        texts = self._batcher.draw(batch["caption"], generators)
        keep = kept_patches((size // self.config.patch_size) ** 2, self.config.patch_keep, generators)
        output: TowerOutput = self.trained_modules[module_name](
            texts.ids.to(device), texts.positions.to(device), image, None if keep is None else keep.to(device)
        )
        # Similarities and softmax need fp32: the temperature multiplies their rounding by up to max_scale.
        with torch.autocast(device.type, enabled=False):
            return self._losses(output, texts, len(image))

    def _losses(self, output: TowerOutput, texts: ClipBatch, pictures: int) -> dict[str, Tensor]:
        device = output.image.device
        compared = pictures + len(texts.sources)
        bags = texts.bags.to(device)
        true = describes(bags[:pictures], bags[:compared])
        true[texts.sources, range(pictures, compared)] = False
        scale = output.log_scale.float().clamp(max=math.log(self.config.max_scale)).exp()
        contrastive, accuracy = info_nce(output.image, output.text[:compared], scale, true)
        words = word_loss(output.words, texts.prefix_bags.to(device), texts.own.to(device))
        losses = {"contrastive": contrastive, "words": words, "scale": scale.detach(), "accuracy": accuracy}
        total = contrastive + self.config.words_weight * words
        if self.table is not None and output.sentence is not None:
            embeddings, known = self.table.lookup(texts.texts)
            losses["teacher"] = teacher_distance(output.sentence, embeddings.to(device), known.to(device))
            total = total + self.config.teacher_weight * losses["teacher"]
        return {"loss": total, **losses}

    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Nothing: a text tower has no picture to show."""
        return {}


def build_towers(
    config: ClipConfig, vocabulary: int, special: Mapping[str, int], teacher_width: int | None
) -> ClipTowers:
    """The towers that are trained, with random weights.

    Args:
        config: sizes of the towers.
        vocabulary: how many tokens there are.
        special: the ids of `bos`, `eos` and `pad`.
        teacher_width: see `ClipTowers`.
    """
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=config.text_width,
        intermediate_size=4 * config.text_width,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        hidden_act="gelu",
        max_position_embeddings=config.context_length,
        projection_dim=config.projection_dim,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
    )
    vision = CLIPVisionConfig(
        hidden_size=config.image_width,
        intermediate_size=4 * config.image_width,
        num_hidden_layers=config.image_layers,
        num_attention_heads=config.image_heads,
        hidden_act="gelu",
        image_size=config.image_size,
        patch_size=config.patch_size,
        projection_dim=config.projection_dim,
    )
    clip = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=config.projection_dim)
    )
    # Over so few tokens plain matrix products beat the fused attention, most of all in its CPU backward.
    clip.set_attn_implementation("eager")
    return ClipTowers(clip, teacher_width)
