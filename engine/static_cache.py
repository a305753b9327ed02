"""Keys and values at addresses and in shapes that stay, with their used part on the device: for attention='kernel'.

A token's slot is its position, in sliding layers too: they keep tokens that have left their window, which costs memory
in long contexts and saves moving the rest. Where rows begin (behind left padding) and where all end are tensors that
kernels read, so a captured graph serves every length. The host counts along (`length`) only to know when buffers are
too small; those of a captured graph must never be.

Legend: B batch, K key/value heads, S slots, T new tokens, D head size.
"""

from __future__ import annotations

import torch

from engine.attention import inverse_frequencies, rope_tables
from engine.config import FULL, ModelConfig
from engine.kv_cache import KVCache, LayerCache


class StaticLayer(LayerCache):
    """Keys and values of one layer, written where the cache's `slots_T` says."""

    def __init__(self, cache: StaticCache, kind: str) -> None:
        super().__init__(kept=None)
        config = cache.config
        full = kind == FULL
        heads = config.global_num_kv_heads if full else config.num_kv_heads
        self.shape = (len(cache.start_B), heads, 0, config.global_head_dim if full else config.head_dim)
        self.cache = cache
        self.k_BKSD, self.v_BKSD = (torch.empty(self.shape, dtype=cache.dtype, device=cache.device) for _ in range(2))

    def extend(self, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write T new tokens; returns the whole buffers."""
        assert self.k_BKSD is not None and self.v_BKSD is not None
        self.k_BKSD.index_copy_(2, self.cache.slots_T, k_BKTD)
        self.v_BKSD.index_copy_(2, self.cache.slots_T, v_BKTD)
        return self.k_BKSD, self.v_BKSD

    def resize(self, slots: int) -> None:
        for name in ("k_BKSD", "v_BKSD"):
            old = getattr(self, name)
            fresh = old.new_zeros(*old.shape[:2], slots, old.shape[3])
            fresh[:, :, : old.shape[2]] = old
            setattr(self, name, fresh)


class StaticCache(KVCache):
    def __init__(
        self, config: ModelConfig, batch: int, device: torch.device, dtype: torch.dtype, *, reserve: int = 0
    ) -> None:
        """`reserve`: tokens to have room for from the beginning; there is more by copying, at least twice as much."""
        self.config, self.device, self.dtype = config, device, dtype
        self.start_B = torch.zeros(batch, dtype=torch.int32, device=device)
        self.length_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.layers: list[LayerCache] = [StaticLayer(self, kind) for kind in config.layer_types]
        self.length, self.slots, self.batch_size, self.real_BS = 0, 0, batch, None
        self.rows = None  # none leaves
        self.slots_T = self.length_1  # of the pass that runs
        self.end_B = self.start_B
        self.make_room(reserve)

    def make_room(self, tokens: int) -> None:
        """Slots for so many tokens in all, and the rotations of their positions."""
        if tokens <= self.slots:
            return
        self.slots = max(tokens, 2 * self.slots)
        for layer in self.layers:
            assert isinstance(layer, StaticLayer)
            layer.resize(self.slots)
        self._rope = {
            kind: rope_tables(inverse_frequencies(self.config, kind).to(self.device), 0, self.slots, self.dtype)
            for kind in sorted(set(self.config.layer_types))
        }

    def begin(self, tokens: int, real_BT: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """A pass over T new tokens starts: the slots of each row, as start_B and end_B, theirs included.

        Raises:
            ValueError: padding behind tokens that are kept already.
        """
        if real_BT is not None:
            if self.length > 0:
                raise ValueError(
                    "padding follows cached tokens; attention='kernel' takes it before the first ones only"
                )
            self.start_B.copy_((~real_BT).sum(dim=1))
        self.make_room(self.length + tokens)
        self.slots_T = self.length_1 + torch.arange(tokens, device=self.device)
        self.end_B = (self.length_1 + tokens).int().repeat(len(self.start_B))
        return self.start_B, self.end_B

    def rope(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """cos and sin of the pass that runs, (T, 1, D), by type of layer."""
        slots_T = self.slots_T
        return {
            kind: (cos.index_select(0, slots_T), sin.index_select(0, slots_T))
            for kind, (cos, sin) in self._rope.items()
        }

    def advance(self, tokens: int, real_BT: torch.Tensor | None, batch_size: int) -> None:
        self.length += tokens
        self.length_1 += tokens

    def reset(self) -> None:
        """Forget all tokens, and keep the buffers."""
        self.length = 0
        self.length_1.zero_()
        self.start_B.zero_()
