"""From command-line words to one typed suite, and every word that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.spec import data
from harness.spec.config import ConfigError, SuiteConfig
from harness.spec.suite import compose, to_yaml


def composed(*words: str, config_dir: str | None = None) -> SuiteConfig:
    return compose(list(words), config_dir=config_dir, backends=["reference", "transformers", "fake"])


@pytest.mark.parametrize("suite", data.options_of("suite"))
def test_every_suite_that_ships_composes(suite: str) -> None:
    config = composed(f"suite={suite}")
    assert config.name == suite
    assert config.description


@pytest.mark.parametrize("device", data.options_of("device"))
def test_every_device_that_ships_composes(device: str) -> None:
    assert composed(f"device={device}").device.display_name


def test_the_default_suite_is_smoke() -> None:
    assert composed().name == "smoke"


def test_a_device_on_the_command_line_wins_over_the_suites() -> None:
    assert composed("suite=h100", "device=h200").device.name == "h200"


def test_an_axis_on_the_command_line_wins_over_the_suites() -> None:
    assert composed("axes.batch_size=[3,5]").axes.batch_size == [3, 5]


def test_options_take_any_key_because_the_backend_checks_them() -> None:
    assert composed("options.sampler=reference").options == {"sampler": "reference"}


def test_a_path_with_spaces_and_quotes_can_be_given() -> None:
    config = composed("""results_dir='a folder/it\\'s "here"'""")
    assert config.results_dir == """a folder/it's "here\""""


def test_the_printed_config_composes_to_itself() -> None:
    import yaml

    config = composed("suite=h100", "seed=7")
    assert yaml.safe_load(to_yaml(config))["seed"] == 7


REFUSED = {
    "suite=h10": "nearest valid: h100",
    "device=h1000": "nearest valid: h100",
    "model=minni": "nearest valid: mini",
    "protocol=quik": "nearest valid: quick",
    "axes.batchsize=[1]": "nearest valid: batch_size",
    "suit=smoke": "nearest valid: suite",
    "devise=h100": "nearest valid: device",
    "batch_size=[1]": "nearest valid: axes.batch_size",
    "+typo=1": "unknown key 'typo'",
    "++typo=1": "unknown key 'typo'",
    "+axes.typo=[1]": "axes has no 'typo'",
    "+device.typo=1": "device has no 'typo'",
    "~axes": "expected KEY=VALUE",
    "~seed=0": "cannot be deleted",
    "name=x": "cannot be set",
    "device.name=x": "cannot be set",
    "axes.batch_size=4": "expected a list",
    "axes.batch_size=[x]": "could not be converted to Integer",
    "axes.batch_size=[1.5]": "could not be converted to Integer",
    "axes.batch_size=[0]": "from 1 to",
    "axes.batch_size=[-1]": "from 1 to",
    "axes.batch_size=[99999999999999999999]": "axes.batch_size",
    "axes.batch_size=[]": "the list is empty",
    "axes.batch_size=[2,2]": "twice",
    "axes.batch_size=1,2": "written as one list",
    "axes.block_length=[1025]": "from 1 to 1024",
    "axes.stopping=[adaptiv]": "nearest valid: adaptive",
    "model=small": "needs trained weights",
    "axes.prompt_set=[coed]": "nearest valid: code",
    "axes.weight_dtype=[float16]": "not one of float32, bfloat16, float8_e4m3",
    "eos=respct": "nearest valid: respect",
    "backend=referense": "nearest valid: reference",
    "launcher=slurm": "not one of inline",
    "seed=-1": "seed",
    "seed=x": "could not be converted to Integer",
    "protocol.rounds=0": "at least 1",
    "protocol.max_rounds=2": "at least 3, which is protocol.rounds, or null",
    "protocol.max_warmup_rounds=0": "at least 1, which is protocol.warmup_rounds, or null",
    "protocol.warmup_window=0": "at least 1",
    "protocol.half_width=0": "above 0",
    "protocol.max_rounds_s=-1": "above 0",
    "protocol=standard": "not one of ci",
    "isolation=proces": "nearest valid: process",
    "model.window=sdp": "sdpa",
    "word": "expected KEY=VALUE",
    "axes.batch_size=[1": "cannot be read",
    "exclude=[{batchsize: [1]}]": "nearest valid: batch_size",
    "exclude=[{reason: x}]": "names no axis",
}


@pytest.mark.parametrize("word", sorted(REFUSED))
def test_a_wrong_word_is_refused_with_what_is_valid(word: str) -> None:
    from harness.spec.plan import build

    with pytest.raises(ConfigError) as caught:
        build(composed(word))
    message = str(caught.value)
    assert REFUSED[word] in message
    assert len(message.splitlines()) <= 5


def test_a_users_own_folder_of_suites_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "my suites, it's mine"
    (folder / "suite").mkdir(parents=True)
    (folder / "suite" / "mine.yaml").write_text("# @package _global_\ndescription: my own\naxes:\n  batch_size: [3]\n")
    config = composed("suite=mine", config_dir=str(folder))
    assert (config.name, config.axes.batch_size) == ("mine", [3])


def test_an_unknown_key_in_a_users_suite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text("# @package _global_\naxes:\n  batchsize: [3]\n")
    with pytest.raises(ConfigError, match="batchsize"):
        composed("suite=mine", config_dir=str(tmp_path))


def test_broken_yaml_in_a_users_suite_is_refused_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text("axes: [\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        composed("suite=mine", config_dir=str(tmp_path))


def test_a_users_prompt_set_is_found_and_checked(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "own.jsonl").write_text('{"id": "own-001", "text": "hello"}\n')
    config = composed("axes.prompt_set=[own]", config_dir=str(tmp_path))
    assert data.load_prompts("own", config.config_dir).texts == ("hello",)


@pytest.mark.parametrize("line", ["{", "[]", '{"text": 1}', '{"id": "x"}', '{"text": " "}'])
def test_a_broken_prompt_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "own.jsonl").write_text('{"id": "own-001", "text": "hello"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"own\.jsonl:2"):
        data.load_prompts("own", str(tmp_path))
