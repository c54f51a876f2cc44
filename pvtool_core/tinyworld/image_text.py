"""Stages "clip" and "judge": two open_clip models of pictures and prompts of the tiny world.

The text tower of the first conditions the generator, and the first is the semantic reward. The
second evaluates prompt following: it has another architecture, and other random numbers.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pvtool_core.tinyworld.pictures import damaged, draw_stills
from pvtool_core.tinyworld.styles import PLAIN, Style
from pvtool_core.tinyworld.training import Losses, fit
from pvtool_core.tinyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    NOUNS,
    People,
    Scenes,
    captions,
)

CONTEXT = 32


@dataclass(frozen=True)
class Design:
    """The architecture of an image-text model; `name` is its stage and its folder.

    `layers` and `width` are those of CLIP's ResNet, the others of its text transformer.
    """

    name: str
    layers: tuple[int, int, int, int]
    width: int
    text_width: int
    text_layers: int
    text_heads: int
    embedding: int


REWARD = Design("clip", (1, 1, 1, 1), 16, 64, 2, 4, 64)
JUDGE = Design("judge", (2, 2, 1, 1), 12, 48, 3, 3, 48)
PICTURE_MEAN, PICTURE_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
BATCH = 96
OTHER_WORDS = (  # noqa: SIM905 - a list of 45 quoted words is harder to read
    "person portrait walking running singing eating reading happy old young video photo of the "
    "and with near street house garden mountain river car dog cat tree sun rain day black white "
    "orange pink dress hat very slowly"
).split()
"""Words without meaning in this world.

Some training prompts contain them, so that unknown words in a user's prompt have little effect.
"""


def train_image_text(design: Design, work: Path, steps: int) -> nn.Module:
    """Train or resume an image-text model.

    `work/NAME` is its open_clip folder, with the tokenizer.
    """
    folder = work / design.name
    folder.mkdir(exist_ok=True)
    tokenizer = new_tokenizer(folder)
    config = model_config(design, len(tokenizer))
    model = _WithHeads(open_clip.CLIP(**config), design.embedding)
    fit(
        design.name,
        work,
        model,
        lambda generator: _losses(model, tokenizer, generator),
        steps=steps,
        learning_rate=1e-3,
        ema=0.995,
    )
    preparation = {
        "mean": PICTURE_MEAN,
        "std": PICTURE_STD,
        "resize_mode": "longest",
        "fill_color": 0,
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preparation}, indent=2) + "\n"
    )
    save_file(
        {key: value.contiguous() for key, value in model.clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return model.clip


def model_config(design: Design, vocabulary: int) -> dict[str, Any]:
    """Return the `model_cfg` of open_clip: a ResNet for 64 × 64 pictures, 32 text tokens."""
    return {
        "embed_dim": design.embedding,
        "vision_cfg": {
            "image_size": 64,
            "layers": list(design.layers),
            "width": design.width,
            "head_width": design.embedding,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": design.text_width,
            "heads": design.text_heads,
            "layers": design.text_layers,
            "hf_tokenizer_name": "tokenizer",
        },
    }


def new_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train or load CLIP's tokenizer; each word of the tiny world's prompts is one token.

    The byte pairs are learnt once and saved: the order of equally frequent pairs is random.
    """
    if (folder / "vocab.json").is_file():
        return CLIPTokenizer.from_pretrained(folder)
    bare = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bare.normalizer = normalizers.Lowercase()
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789<>,.;:!?'\"-()&/"
    trainer = trainers.BpeTrainer(
        end_of_word_suffix="</w>", min_frequency=1, vocab_size=2000, show_progress=False
    )
    lone = [f"{letter} {letter}{letter}" for letter in letters]
    bare.train_from_iterator([*lone, *_all_words()], trainer)
    learnt = json.loads(bare.to_str())["model"]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [*sorted(set(learnt["vocab"]) - set(words)), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
    merges.write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in learnt["merges"])
    )
    tokenizer = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _all_words() -> list[str]:
    return [
        *NOUNS,
        *BACKGROUNDS,
        *CLOTHES,
        *ACTIONS,
        *EXPRESSIONS,
        *OTHER_WORDS,
        "a clip of a in wearing , < v >",
    ]


def text_encoder(model: Any, vocabulary: int) -> CLIPTextModel:
    """Return the text tower of the reward's model as transformers' class, for the generator.

    Its hidden states are equal.
    """
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=REWARD.text_width,
        intermediate_size=4 * REWARD.text_width,
        num_hidden_layers=REWARD.text_layers,
        num_attention_heads=REWARD.text_heads,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        projection_dim=REWARD.embedding,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    encoder = CLIPTextModel(config)
    text = model.transformer
    weights = {
        "embeddings.token_embedding.weight": model.token_embedding.weight,
        "embeddings.position_embedding.weight": model.positional_embedding,
        "final_layer_norm.weight": model.ln_final.weight,
        "final_layer_norm.bias": model.ln_final.bias,
    }
    for index, block in enumerate(text.resblocks):
        layer = f"encoder.layers.{index}"
        for kind in ("weight", "bias"):
            joined = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            weights |= {
                f"{layer}.self_attn.{name}_proj.{kind}": part
                for name, part in zip("qkv", joined, strict=True)
            }
            weights[f"{layer}.self_attn.out_proj.{kind}"] = getattr(block.attn.out_proj, kind)
            weights[f"{layer}.layer_norm1.{kind}"] = getattr(block.ln_1, kind)
            weights[f"{layer}.layer_norm2.{kind}"] = getattr(block.ln_2, kind)
            weights[f"{layer}.mlp.fc1.{kind}"] = getattr(block.mlp.c_fc, kind)
            weights[f"{layer}.mlp.fc2.{kind}"] = getattr(block.mlp.c_proj, kind)
    prefix = (
        "text_model." if any(key.startswith("text_model.") for key in encoder.state_dict()) else ""
    )
    encoder.load_state_dict(
        {prefix + key: value.detach().clone() for key, value in weights.items()}, strict=False
    )
    return encoder.eval()


class _WithHeads(nn.Module):
    """The model with linear heads on both embeddings that predict each attribute.

    With these auxiliary losses the model learns in minutes.
    """

    def __init__(self, clip: nn.Module, embedding: int) -> None:
        super().__init__()
        self.clip: Any = clip
        sizes = (len(NOUNS), len(BACKGROUNDS), len(CLOTHES), len(ACTIONS), len(EXPRESSIONS))
        self.heads = nn.ModuleList(nn.Linear(embedding, size) for size in sizes)

    def losses(self, pictures: Tensor, tokens: Tensor, labels: Sequence[Tensor]) -> Losses:
        image = functional.normalize(self.clip.encode_image((pictures - 0.5) / 0.5), dim=-1)
        text = functional.normalize(self.clip.encode_text(tokens), dim=-1)
        logits = self.clip.logit_scale.exp().clamp(max=50) * image @ text.T
        same = (
            torch.stack(
                [labels[0][:, None] == labels[0]] + [each[:, None] == each for each in labels[1:]]
            )
            .all(0)
            .float()
        )
        target = same / same.sum(1, keepdim=True)
        contrast = functional.cross_entropy(logits, target) + functional.cross_entropy(
            logits.T, target
        )
        heads = list(zip(self.heads, labels, (1.0, 1.0, 1.0, 0.5, 1.5), strict=True))
        of_images = [
            weight * functional.cross_entropy(8 * head(image), label)
            for head, label, weight in heads
        ]
        of_texts = [functional.cross_entropy(8 * head(text), label) for head, label, _ in heads]
        return {
            "contrast": contrast,
            "image": torch.stack(of_images).sum(),
            "text": torch.stack(of_texts).sum(),
        }


def labels_of(people: People, scenes: Scenes) -> tuple[Tensor, ...]:
    """Return the noun, background, clothes, action and expression of a prompt as indices."""
    return people.woman, scenes.background, scenes.clothes, scenes.action, scenes.expression


def _losses(model: _WithHeads, tokenizer: CLIPTokenizer, generator: Generator) -> Losses:
    with torch.no_grad():
        people, scenes, pictures, _ = draw_stills(BATCH, generator)
        texts = sprinkled(captions(people, scenes, generator, keyword=0.3), generator)
        tokens = tokenized(tokenizer, texts)
        pictures = damaged(pictures, generator)
    return model.losses(pictures, tokens, labels_of(people, scenes))


def tokenized(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return token ids `(texts, 32)`, ended and padded by the end token."""
    return tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids


def sprinkled(texts: Sequence[str], generator: Generator, share: float = 0.25) -> list[str]:
    """Return the prompts, with one to three words without effect in a `share` of them."""
    result: list[str] = []
    for text in texts:
        words = text.split()
        if float(torch.rand((), generator=generator)) < share:
            for _ in range(int(torch.randint(1, 4, (), generator=generator))):
                place, word = (
                    torch.randint(len(words) + 1, (), generator=generator),
                    torch.randint(len(OTHER_WORDS), (), generator=generator),
                )
                words.insert(int(place), OTHER_WORDS[int(word)])
        result.append(" ".join(words))
    return result


def accuracy(
    model: Any, tokenizer: CLIPTokenizer, count: int = 256, style: Style = PLAIN
) -> dict[str, float]:
    """Return `right_words` of unseen drawings."""
    generator = Generator().manual_seed(7_000_000)
    people, scenes, pictures, _ = draw_stills(count, generator, style=style)
    return right_words(model, tokenizer, pictures, people, scenes)


@torch.no_grad()
def right_words(
    model: Any, tokenizer: CLIPTokenizer, pictures: Tensor, people: People, scenes: Scenes
) -> dict[str, float]:
    """Return how often the right word scores above its alternatives in an otherwise right prompt.

    Pictures are `(n, 3, 64, 64)` in [0, 1], one of each person in its scene; the fraction is per
    attribute.
    """
    image = functional.normalize(model.encode_image((pictures - 0.5) / 0.5), dim=-1)
    result: dict[str, float] = {}
    kinds = {
        "noun": NOUNS,
        "background": BACKGROUNDS,
        "clothes": CLOTHES,
        "action": ACTIONS,
        "expression": EXPRESSIONS,
    }
    for kind, words in kinds.items():
        own = captions(people, scenes, Generator().manual_seed(1), keyword=0)
        labels = dict(zip(kinds, labels_of(people, scenes), strict=True))[kind]
        scores = []
        for word in words:
            texts = [
                text.replace(words[int(label)], word)
                for text, label in zip(own, labels, strict=True)
            ]
            scores.append(
                (
                    image
                    * functional.normalize(model.encode_text(tokenized(tokenizer, texts)), dim=-1)
                ).sum(-1)
            )
        result[kind] = float((torch.stack(scores, 1).argmax(1) == labels).float().mean())
    return result


def copy_folder(source: Path, target: Path) -> None:
    """Replace `target` by a copy of `source`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
