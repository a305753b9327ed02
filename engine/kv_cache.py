"""The keys and values of the tokens committed so far.

A pass writes its own keys behind the end of what is kept; only a causal pass then moves the end. So a denoising step
reads the cache and leaves it as it was, without copying the past once per layer and step.

Legend: B batch, b rows that stay, K key/value heads, S slots of a buffer, T new tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.config import FULL, ModelConfig
from engine.rows import Rows

# Slots a sliding layer has beside its window, so that single tokens can be appended for a while before the window moves
# back to the front. A longer canvas or prompt gets the slots it needs.
_SLACK = 256


class LayerCache:
    """Keys and values of one layer. `kept` None keeps every token, otherwise the last `kept` ones."""

    def __init__(self, kept: int | None, reserved: int = 0) -> None:
        self.kept = kept
        self.reserved = reserved  # tokens that the request will write in all, when that is known
        self.k_BKSD: torch.Tensor | None = None
        self.v_BKSD: torch.Tensor | None = None
        self.start = 0  # the kept tokens are in slots start..end-1
        self.end = 0

    def extend(self, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write T new tokens behind the kept ones and return views over both; `advance` makes them kept."""
        tokens = k_BKTD.shape[2]
        if self.k_BKSD is None or self.end + tokens > self.k_BKSD.shape[2]:
            self._move(k_BKTD, self._slots_for(self.end - self.start + tokens))
        assert self.k_BKSD is not None and self.v_BKSD is not None
        end = self.end + tokens
        self.k_BKSD[:, :, self.end : end] = k_BKTD
        self.v_BKSD[:, :, self.end : end] = v_BKTD
        return self.k_BKSD[:, :, self.start : end], self.v_BKSD[:, :, self.start : end]

    def advance(self, tokens: int) -> None:
        self.end += tokens
        if self.kept is not None:
            self.start = max(self.start, self.end - self.kept)
            assert self.k_BKSD is not None
            if self.k_BKSD.shape[2] > 2 * (self.kept + _SLACK):  # a long prompt went through: free what it took
                self._move(self.k_BKSD, self._slots_for(self.end - self.start))

    def of_rows(self, place_b: torch.Tensor) -> LayerCache:
        """A copy of some rows."""
        chosen = LayerCache(self.kept, self.reserved)
        chosen.start, chosen.end = self.start, self.end
        if self.k_BKSD is not None and self.v_BKSD is not None:
            chosen.k_BKSD, chosen.v_BKSD = (x.index_select(0, place_b) for x in (self.k_BKSD, self.v_BKSD))
        return chosen

    def _slots_for(self, needed: int) -> int:
        """All that the request will need, or twice what is needed now; for a window not more than it and some slack."""
        wanted = self.reserved if self.reserved >= needed else 2 * needed
        if self.kept is not None:
            wanted = min(wanted, self.kept + _SLACK)
        return max(wanted, needed)

    def _move(self, like_BKTD: torch.Tensor, slots: int) -> None:
        """Copy the kept tokens to the front of fresh buffers with so many slots."""
        length = self.end - self.start
        for name in ("k_BKSD", "v_BKSD"):
            old = getattr(self, name)
            fresh = like_BKTD.new_empty(like_BKTD.shape[0], like_BKTD.shape[1], slots, like_BKTD.shape[3])
            if old is not None:
                fresh[:, :, :length] = old[:, :, self.start : self.end]
            setattr(self, name, fresh)
        self.start, self.end = 0, length


class KVCache:
    """Every layer's keys and values, how many tokens they stand for, and which of those are padding.

    Sliding layers keep window - 1 tokens, which is all that a later token may see beside itself; full layers keep all.
    """

    def __init__(self, config: ModelConfig, *, reserve: int = 0) -> None:
        """`reserve`: tokens the cache will hold at most, when known; it grows by itself otherwise."""
        window = config.sliding_window - 1
        self.layers = [LayerCache(None if kind == FULL else window, reserve) for kind in config.layer_types]
        self.config = config
        self.length = 0  # tokens committed, padding included: the next token's position
        self.batch_size: int | None = None
        self.rows: Rows | None = None  # which rows of the batch these are, once some have left; None: all
        self.real_BS: torch.Tensor | None = None  # False where a committed token is padding; None: no padding at all

    def advance(self, tokens: int, real_BT: torch.Tensor | None, batch_size: int) -> None:
        """Keep the T tokens that the layers have just written."""
        if self.real_BS is not None or real_BT is not None:
            device = real_BT.device if real_BT is not None else self.real_BS.device  # type: ignore[union-attr]
            every = torch.ones(batch_size, 1, dtype=torch.bool, device=device)
            before = self.real_BS if self.real_BS is not None else every.expand(-1, self.length)
            after = real_BT if real_BT is not None else every.expand(-1, tokens)
            self.real_BS = torch.cat([before, after], dim=1)
        for layer in self.layers:
            layer.advance(tokens)
        self.length += tokens
        self.batch_size = batch_size

    def without(self, is_gone: Sequence[bool]) -> tuple[KVCache, torch.Tensor | None]:
        """A copy without the rows of the batch that are gone, and the places here of those that stay.

        Itself and None where there is nobody to leave.
        """
        first = self.layers[0].k_BKSD
        assert first is not None
        before = Rows.all(len(is_gone), first.device) if self.rows is None else self.rows
        if not any(is_gone[row] for row in before.here):
            return self, None
        rest = KVCache(self.config)
        rest.rows, place_b = before.without(is_gone)
        rest.layers = [layer.of_rows(place_b) for layer in self.layers]
        rest.length, rest.batch_size = self.length, len(place_b)
        rest.real_BS = None if self.real_BS is None else self.real_BS[place_b]
        return rest, place_b

    def held(self, x_B: torch.Tensor) -> torch.Tensor:
        """Of something of the whole batch, the rows that are here."""
        return x_B if self.rows is None else self.rows.take(x_B)

    def put(self, before_B: torch.Tensor, x_b: torch.Tensor) -> torch.Tensor:
        """Something of the whole batch: new in the rows that are here, as before in the others."""
        return x_b if self.rows is None else self.rows.put(before_B, x_b)
