"""Each wrong argument is refused with one line that says what it is, its value, and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Pair, hf_gemma4, random_ids

from engine import api

IDS = random_ids(1, 4)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "decoding": (dict(decoding="magic"), "decoding is 'magic', expected 'block_diffusion' or 'autoregressive'"),
    "stopping": (dict(stopping="soon"), "stopping is 'soon', expected 'adaptive' or 'fixed'"),
    "eos": (dict(eos="maybe"), "eos is 'maybe', expected 'respect' or 'ignore'"),
    "sampler": (dict(sampler="quick"), "sampler is 'quick', expected 'reference' or 'plain' or 'fast'"),
    "block 0": (dict(block_length=0), "block_length is 0, expected a whole number, 1 to 1024"),
    "block 1025": (dict(block_length=1025), "block_length is 1025, expected a whole number, 1 to 1024"),
    "block 2.5": (dict(block_length=2.5), "block_length is 2.5, expected a whole number, 1 to 1024"),
    "no steps": (dict(num_steps=0), "num_steps is 0, expected a whole number of at least 1"),
    "no output": (dict(output_tokens=0), "output_tokens is 0, expected a whole number of at least 1"),
    "too long": (dict(output_tokens=505), "4 prompt and 510 output tokens make 514 positions, expected at most 512"),
    "eos id": (dict(eos_ids=[3, 96]), "eos_ids contains 96, expected ids from 0 to 95"),
    "temperature": (dict(temperature=-1.0), "temperature is -1.0, expected a number of at least 0.0"),
    "entropy bound": (dict(entropy_bound=-0.1), "entropy_bound is -0.1, expected a number of at least 0.0"),
    "nan": (dict(confidence=float("nan")), "confidence is nan, expected a number of at least 0.0"),
    "stability": (dict(stability=-1), "stability is -1, expected a whole number of at least 0"),
    "t_max": (dict(t_min=0.5, t_max=0.4), "t_max is 0.4, expected a number of at least 0.5"),
    "t zero": (dict(t_min=0.0, t_max=0.0), "t_max is 0.0, expected a number above 0"),
    "mask shape": (
        dict(attention_mask_BT=torch.ones(1, 3)),
        "attention_mask_BT has shape (1, 3), expected that of the ids, (1, 4)",
    ),
    "right padding": (
        dict(attention_mask_BT=torch.tensor([[1, 1, 1, 0]])),
        "attention_mask_BT has padding behind a real token, expected padding on the left and a real last token",
    ),
    "no real token": (
        dict(attention_mask_BT=torch.zeros(1, 4)),
        "attention_mask_BT has padding behind a real token, expected padding on the left and a real last token",
    ),
}
WRONG_IDS: dict[str, tuple[Any, str]] = {
    "outside the vocabulary": (torch.tensor([[1, 96]]), "prompt_ids_BT contains id 96, expected ids from 0 to 95"),
    "negative": (torch.tensor([[-1, 5]]), "prompt_ids_BT contains id -1, expected ids from 0 to 95"),
    "one dimension": (torch.tensor([1]), "prompt_ids_BT has shape (1,), expected (batch, tokens), both at least 1"),
    "empty": (IDS[:, :0], "prompt_ids_BT has shape (1, 0), expected (batch, tokens), both at least 1"),
    "floats": (torch.ones(1, 2), "prompt_ids_BT is torch.float32, expected a tensor of int64 or int32 token ids"),
    "a list": ([[1]], "prompt_ids_BT is list, expected a tensor of int64 or int32 token ids"),
}


def refusal(call: Any, *args: Any, **choices: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        call(*args, **choices)
    return str(error.value)


@pytest.mark.parametrize(("choices", "message"), WRONG.values(), ids=WRONG)
def test_generate_refuses_a_wrong_choice(pair: Pair, choices: dict[str, Any], message: str) -> None:
    valid = dict(decoding="block_diffusion", output_tokens=6)
    assert refusal(api.generate, pair.ours, IDS, **valid | choices).startswith(message)


@pytest.mark.parametrize(("ids", "message"), WRONG_IDS.values(), ids=WRONG_IDS)
def test_generate_refuses_wrong_prompts(pair: Pair, ids: Any, message: str) -> None:
    assert refusal(api.generate, pair.ours, ids, decoding="autoregressive", output_tokens=6) == message


def test_autoregressive_decoding_reads_none_of_the_diffusion_choices(pair: Pair) -> None:
    got = api.generate(pair.ours, IDS, decoding="autoregressive", output_tokens=2, stopping=None, eos="ignore")
    assert got.output_ids.shape == (1, 2)


def test_a_gemma4_checkpoint_refuses_block_diffusion(tmp_path: Path) -> None:
    hf_gemma4().save_pretrained(tmp_path)
    model = api.load(tmp_path)
    message = "decoding is 'block_diffusion', but this is a Gemma 4 checkpoint; expected 'autoregressive'"
    assert refusal(api.generate, model, IDS, decoding="block_diffusion", output_tokens=6) == message
    assert refusal(api.denoise_logits, model, IDS, api.encode(model, IDS)) == message
    assert api.generate(model, IDS, decoding="autoregressive", output_tokens=6).passes["prefill"] == 1


def test_load_refuses_wrong_choices() -> None:
    names = "mini, tiny, small, diffusiongemma_26b_a4b"
    assert refusal(api.load, "maxi") == f"model source is 'maxi', expected a directory or one of {names}"
    assert refusal(api.load, "tiny", dtype="float16") == "dtype is 'float16', expected 'float32' or 'bfloat16'"
    assert refusal(api.load, "tiny", device="gpu") == "device is 'gpu', expected cpu, cuda, or cuda:<index>"
    assert refusal(api.load, "tiny", window="round") == "window is 'round', expected 'sdpa' or 'symmetric'"


def test_load_takes_torch_dtypes_and_paths(pair: Pair) -> None:
    assert api.load(str(pair.directory), dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert refusal(api.load, "tiny", device="cuda").startswith("device is 'cuda', but this torch")


def test_a_cache_of_another_batch_is_refused(pair: Pair) -> None:
    cache = api.encode(pair.ours, IDS)
    message = "cache holds a batch of 1, but the ids are a batch of 2"
    assert refusal(api.encode, pair.ours, random_ids(2, 4), cache=cache) == message
    assert refusal(api.denoise_logits, pair.ours, random_ids(2, 4), cache) == message


def test_a_cache_of_another_model_is_refused(pair: Pair) -> None:
    small = api.load("small")
    message = "cache is of another model, expected one that encode made for this model"
    assert refusal(api.denoise_logits, pair.ours, IDS, api.encode(small, IDS)) == message
    message = "cache is NoneType, expected one that encode made for this model"
    assert refusal(api.denoise_logits, pair.ours, IDS, None) == message


def test_encoding_past_the_last_position_is_refused(pair: Pair) -> None:
    cache = api.encode(pair.ours, random_ids(1, 510))
    message = "510 cached and 4 new tokens make 514 positions, expected at most 512 (max_position_embeddings)"
    assert refusal(api.encode, pair.ours, IDS, cache=cache) == message


def test_self_conditioning_of_a_wrong_shape_is_refused(pair: Pair) -> None:
    wrong = torch.zeros(1, 4, 95)
    message = "self_conditioning_BLV has shape (1, 4, 95), expected (1, 4, 96)"
    cache = api.encode(pair.ours, IDS)
    assert refusal(api.denoise_logits, pair.ours, IDS, cache, self_conditioning_BLV=wrong) == message
