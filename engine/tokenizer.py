"""A tokenizer for models that come without one: every byte is a token.

Ids 0 to 3 are pad, end of sequence, beginning of sequence, end of turn; byte b is id 4 + b.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<end_of_turn>")
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level tokenizers (GPT-2's table).

    Printable Latin-1 stands for itself; the rest is moved, in order, to 256 and up.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(moved)) for b in range(256)]


def byte_level() -> Tokenizer:
    """Encodes any text to its UTF-8 bytes and back. Text never becomes a special token; those are added by id."""
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    vocab |= {character: len(SPECIAL_TOKENS) + byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.encode_special_tokens = True
    return tokenizer


def read(directory: Path) -> Tokenizer | None:
    """The directory's tokenizer.json, or None if it has none.

    Raises:
        ValueError: the file is not a tokenizer.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for whatever it finds
        raise ValueError(f"{path}: not a tokenizer of the tokenizers library ({error})") from error
    if tuple(tokenizer.id_to_token(i) for i in range(len(SPECIAL_TOKENS))) == SPECIAL_TOKENS:  # one of ours
        tokenizer.encode_special_tokens = True  # text never becomes a special token; the file cannot say so
    return tokenizer
