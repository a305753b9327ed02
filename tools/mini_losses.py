"""What the mini learns from: its shape, its tokenizer, batches of its task, and the three losses on them.

Legend: B batch, T prefix tokens, L block length, V vocabulary, N tokens, E experts, S keys, K key/value heads, D head
size.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the engine of this checkout
import mini_data
from mini_tasks import TASKS, Task

from engine.config import FULL, SLIDING, GenerationDefaults, ModelConfig
from engine.kv_cache import KVCache, LayerCache
from engine.model import Model
from engine.tokenizer import SPECIAL_TOKENS

PAD, EOS, BOS = 0, 1, 2
BLOCK = 32
CONFIG = ModelConfig(
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    layer_types=(SLIDING, FULL, SLIDING, FULL),
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    global_num_kv_heads=1,
    global_head_dim=64,
    sliding_window=64,
    num_experts=8,
    top_k_experts=2,
    moe_intermediate_size=128,
    vocab_size=896,
    canvas_length=BLOCK,
    max_position_embeddings=8192,
    generation=GenerationDefaults(eos_ids=(EOS, 3), pad_id=PAD, bos_id=BOS),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice of a training; a training that goes on must have the same.

    It has two phases. In the second, noise also takes tokens that another row of the same task has in the same place.
    The sampler accepts one uncertain token a step together with all certain ones, so what the model must learn to mend
    are plausible wrong tokens, and uniform noise hardly ever holds any: before it, 4 % of sums in steps were right.
    Not so in open tasks, where another row's token is as right as one's own.
    """

    seed: int = 0
    steps: int = 4000  # of the first phase
    polish_steps: int = 500
    polish_lr_share: float = 0.3  # of the first phase's rates, where the second begins
    polish_swapped_share: float = 0.5  # of its noise that comes from other rows
    polish_sums_factor: int = 4  # how much more often it draws sums in steps
    batch: int = 64
    later_canvas_share: float = 0.15  # of the steps, which train a canvas that follows another one
    all_noise_share: float = 0.15  # of the rows: what generation starts from
    padding_weight: float = 0.15
    causal_weight: float = 1.0
    balance_weight: float = 0.01
    conditioned_share: float = 0.5
    muon_lr: float = 0.02
    adamw_lr: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 60
    final_lr_share: float = 0.02

    @property
    def all_steps(self) -> int:
        return self.steps + self.polish_steps

    def is_polish(self, step: int) -> bool:
        return step >= self.steps

    def lr_share(self, step: int) -> float:
        """What the learning rates are multiplied with: a warm-up, then two straight lines down."""
        if self.is_polish(step):
            start, share = self.polish_lr_share, (step - self.steps) / self.polish_steps
        else:
            start, share = 1.0, step / self.steps
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * (self.final_lr_share + (start - self.final_lr_share) * (1 - share))


def train_tokenizer(seed: int) -> Tokenizer:
    """Byte-level pairs merged over the training text; digits stay apart, so that sums can be learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(f"{seed} tokenizer")
    items = [mini_data.item(task, rng, held_out=False) for task in TASKS for _ in range(1000)]
    tokenizer.train_from_iterator([text for one in items for text in (one.text, one.answer)], trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B rows: what comes before a canvas (padded on the left) and the canvas as it should become."""

    prefix_BT: torch.Tensor
    real_BT: torch.Tensor
    canvas_BL: torch.Tensor
    peers_BL: torch.Tensor  # for each place, a row of the same task; in open tasks the row itself


def make_batch(tokenizer: Tokenizer, recipe: Recipe, step: int) -> Batch:
    """The batch of a step: a first canvas of any task, or a later one of those whose answers are long."""
    rng = random.Random(f"{recipe.seed} batch {step}")
    index = 0 if rng.random() >= recipe.later_canvas_share else rng.choice((1, 1, 2))
    factor = recipe.polish_sums_factor if recipe.is_polish(step) else 1
    weights = [t.weight * (factor if t.name == "maths_hard" else 1) for t in TASKS]
    rows: list[tuple[list[int], list[int]]] = []
    tasks: list[Task] = []
    while len(rows) < (recipe.batch if index == 0 else recipe.batch // 2):
        task = rng.choices(TASKS, weights)[0] if index == 0 else TASKS[-1]
        one = mini_data.item(task, rng, held_out=False)
        answer = [*tokenizer.encode(one.answer, add_special_tokens=False).ids, EOS]
        if len(answer) > index * BLOCK:
            prompt = [BOS, *tokenizer.encode(one.text, add_special_tokens=False).ids]
            tasks.append(task)
            rows.append((prompt + answer[: index * BLOCK], answer[index * BLOCK : (index + 1) * BLOCK]))
    longest = max(len(prefix) for prefix, _ in rows)
    return Batch(
        prefix_BT=torch.tensor([[PAD] * (longest - len(prefix)) + prefix for prefix, _ in rows]),
        real_BT=torch.tensor([[False] * (longest - len(prefix)) + [True] * len(prefix) for prefix, _ in rows]),
        canvas_BL=torch.tensor([canvas + [PAD] * (BLOCK - len(canvas)) for _, canvas in rows]),
        peers_BL=torch.tensor([_peers(b, tasks, rng) for b in range(len(rows))]),
    )


def _peers(row: int, tasks: list[Task], rng: random.Random) -> list[int]:
    alike = [row] if tasks[row].pattern else [b for b, task in enumerate(tasks) if task is tasks[row]]
    return rng.choices(alike, k=BLOCK)


class TrainingLayer(LayerCache):
    """Joins keys instead of writing them in place, so that gradients can flow through them."""

    def extend(self, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.k_BKSD is None or self.v_BKSD is None:
            self.new = (k_BKTD, v_BKTD)
            return k_BKTD, v_BKTD
        return torch.cat([self.k_BKSD, k_BKTD], dim=2), torch.cat([self.v_BKSD, v_BKTD], dim=2)

    def advance(self, tokens: int) -> None:
        self.k_BKSD, self.v_BKSD = self.new

    def cut(self, length: int) -> None:
        start = 0 if self.kept is None else max(0, length - self.kept)
        assert self.k_BKSD is not None and self.v_BKSD is not None
        self.k_BKSD, self.v_BKSD = self.k_BKSD[:, :, start:length], self.v_BKSD[:, :, start:length]


class TrainingCache(KVCache):
    """A causal pass over prefix and canvas fills it; cut back to the prefix, it serves the canvas's denoising."""

    layers: list[TrainingLayer]  # type: ignore[assignment]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = [TrainingLayer(layer.kept) for layer in self.layers]

    def cut(self, length: int) -> None:
        for layer in self.layers:
            layer.cut(length)
        self.length = length
        if self.real_BS is not None:
            self.real_BS = self.real_BS[:, :length]


class Loads:
    """How evenly the routers spread tokens over experts, as seen by hooks on their projections."""

    def __init__(self, model: Model) -> None:
        self.scores_NE: list[torch.Tensor] = []
        self.top_k = model.config.top_k_experts
        for layer in model.layers:
            layer.router.proj.register_forward_hook(lambda _module, _inputs, out: self.scores_NE.append(out))

    def take(self) -> torch.Tensor:
        """E x sum over experts of (share of tokens x mean probability), over the passes since the last call; 1 is even.

        The loss of https://arxiv.org/abs/2101.03961, equation 4.
        """
        losses = []
        for scores_NE in self.scores_NE:
            probs_NE = scores_NE.float().softmax(-1)
            chosen_NE = torch.zeros_like(probs_NE).scatter_(1, scores_NE.topk(self.top_k, dim=-1).indices, 1.0)
            losses.append(probs_NE.shape[1] * (chosen_NE.mean(0) / self.top_k * probs_NE.mean(0)).sum())
        self.scores_NE.clear()
        return torch.stack(losses).mean()


def losses(
    model: Model, loads: Loads, batch: Batch, recipe: Recipe, step: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The three losses of a step's batch. Rows count equally, however short their answers are."""
    B, T = batch.prefix_BT.shape
    cache = TrainingCache(model.config)
    ids = torch.cat([batch.prefix_BT, batch.canvas_BL], dim=1)
    real = torch.cat([batch.real_BT, torch.ones_like(batch.canvas_BL, dtype=torch.bool)], dim=1)
    logits = model.causal_logits(ids, cache, real, last=BLOCK + 1)
    answer_BL = (batch.canvas_BL != PAD).float()
    causal = _row_mean(logits[:, :-1], batch.canvas_BL, answer_BL)
    cache.cut(T)

    rate_B = torch.rand(B, generator=generator)
    rate_B[torch.rand(B, generator=generator) < recipe.all_noise_share] = 1.0
    noisy_BL = torch.rand(B, BLOCK, generator=generator) < rate_B[:, None]
    noise_BL = torch.randint(0, model.config.vocab_size, (B, BLOCK), generator=generator)
    if recipe.is_polish(step):
        swapped_BL = torch.rand(B, BLOCK, generator=generator) < recipe.polish_swapped_share
        noise_BL = torch.where(swapped_BL, batch.canvas_BL.gather(0, batch.peers_BL), noise_BL)
    canvas_BL = torch.where(noisy_BL, noise_BL, batch.canvas_BL)
    conditioning = None
    if torch.rand((), generator=generator) < recipe.conditioned_share:
        own = model.config.generation
        temperature_B11 = (own.t_min + (own.t_max - own.t_min) * rate_B)[:, None, None]
        with torch.no_grad():
            conditioning = model.denoise(canvas_BL, cache) / temperature_B11
        loads.scores_NE = loads.scores_NE[: len(model.layers)]
    denoised = model.denoise(canvas_BL, cache, conditioning)
    weight_BL = answer_BL + (1 - answer_BL) * recipe.padding_weight
    return {"denoise": _row_mean(denoised, batch.canvas_BL, weight_BL), "causal": causal, "balance": loads.take()}


def _row_mean(logits_BLV: torch.Tensor, target_BL: torch.Tensor, weight_BL: torch.Tensor) -> torch.Tensor:
    ce_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), target_BL, reduction="none")
    return ((ce_BL * weight_BL).sum(1) / weight_BL.sum(1)).mean()
