"""The command line's grammar. Hydra sees only the KEY=VALUE words of run and plan."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from harness import __version__
from harness.spec import data
from harness.spec.config import ConfigError
from harness.voice import fail

EXIT_CODES = """exit codes:
  0 done   1 a regression   2 usage or configuration   3 incomplete: a cell failed or is missing
  4 nothing to show, not comparable, no baseline, or this machine is unfit   5 inconclusive
  130 interrupted; the same command goes on, but a gate begins anew"""


def prices(given: Sequence[str]) -> dict[str, float]:
    """Device -> USD an hour, of DEVICE=PRICE words.

    Raises:
        ConfigError: a word holds no price, or a device has two.
    """
    found: dict[str, float] = {}
    for word in given:
        device, _, price = word.partition("=")
        try:
            usd = float(price)
        except ValueError:
            usd = 0.0
        if not 0 < usd < float("inf"):
            raise ConfigError(f"--usd-per-hour: {word!r} holds no price; expected for example h100=2.49")
        if device in found:
            raise ConfigError(f"--usd-per-hour: {device!r} is named twice, with {found[device]:g} and with {usd:g}")
        found[device] = usd
    return found


class _Parser(argparse.ArgumentParser):
    """argparse, with errors in our own short form."""

    def error(self, message: str) -> NoReturn:
        sys.exit(fail(2, f"{message}\nhelp: {self.prog} --help"))


def parse(argv: Sequence[str], verbs: Mapping[str, str]) -> argparse.Namespace:
    """Options and words in any order (argparse alone wants all words of a verb together).

    Args:
        verbs: name -> one line of help.

    Returns:
        verb, its options, `command`: the whole line, for the manifest, and `resume`: the line that goes on with it.
    """
    parser, words_of = _parser(verbs)
    args, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    if rest and args.verb == "doctor":
        parser.error(f"doctor takes no words, but got {rest[0]}")
    if args.verb == "gate" and (words := [word for word in rest if "=" not in word]):
        parser.error(f"gate takes options and KEY=VALUE, but got {words[0]}")
    getattr(args, words_of[args.verb]).extend(rest)
    args.command = shlex.join(["python", "-m", "harness", *argv])
    args.resume = shlex.join(["python", "-m", "harness", *(word for word in argv if word != "fresh=true")])
    return args


def _parser(verbs: Mapping[str, str]) -> tuple[_Parser, dict[str, str]]:
    """The parser, and for each verb the name of the list that its plain words go to."""
    parser = _Parser(
        prog="python -m harness",
        description="Where is block diffusion faster than autoregressive decoding, by how much, and why?",
        epilog=f"start with: python -m harness run suite=smoke\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"canvasbench {__version__}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    groups = "\n".join(f"  {group}=  {', '.join(data.options_of(group))}" for group in data.GROUPS)
    words_of = {}
    for name, line in verbs.items():
        verb = subparsers.add_parser(
            name, help=line, description=line, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        verb.add_argument("--json", action="store_true", help="JSON alone on stdout")
        verb.add_argument("-q", "--quiet", action="store_true", help="errors only")
        verb.add_argument("-v", "--verbose", action="store_true", help="tracebacks of our own bugs")
        if name in ("run", "plan"):
            verb.epilog = f"choices:\n{groups}\n\nevery key: python -m harness {name} --cfg job\n\n{EXIT_CODES}"
            words_of[name] = "overrides"
            _add_hydra(verb)
        else:
            verb.epilog = EXIT_CODES
            words_of[name] = "overrides" if name == "gate" else "runs"
            _ADDS[name](verb)
    return parser, words_of


def _add_hydra(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="suite=NAME device=NAME axes.batch_size=[1,4] ..."
    )
    verb.add_argument("--cfg", choices=["job"], help="print the composed suite as YAML and stop")
    verb.add_argument("--config-dir", metavar="DIR", help="your own suites, laid out like suites/")


def _add_runs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, <suite>/<run_id>, or a suite's name")
    verb.add_argument("--results-dir", default="results", metavar="DIR")


def _add_doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--results-dir", default="results", metavar="DIR", help="where records will go")
    verb.set_defaults(runs=[])


def _add_merge(verb: argparse.ArgumentParser) -> None:
    _add_runs(verb)
    verb.add_argument("-o", "--output", metavar="DIR", required=True, help="the merged run's folder, new or empty")


def _add_report(verb: argparse.ArgumentParser) -> None:
    _add_runs(verb)
    verb.add_argument("-o", "--output", metavar="FILE", help="the page (default: reports/<suite>.html)")
    verb.add_argument("--reports-dir", default="reports", metavar="DIR")
    verb.add_argument(
        "--usd-per-hour",
        action="append",
        default=[],
        metavar="DEVICE=PRICE",
        help="the price of an hour of a device that ran or is predicted, in place of its file's; for example h100=2.49",
    )
    verb.add_argument(
        "--export", metavar="DIR", help="also write figures (SVG, PNG), the table (CSV, Parquet), summaries and a badge"
    )
    verb.add_argument("--verdict", metavar="FILE", help='a gate\'s verdict.json, for the section "May I merge?"')


def _add_compare(verb: argparse.ArgumentParser) -> None:
    _add_runs(verb)
    verb.add_argument("--metric", action="append", metavar="NAME", help="a metric to compare, again for another one")


def _add_gate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--base",
        required=True,
        metavar="REV|RUN",
        help="a git revision, which is measured here in turn with head; or a run, a job's folder, or `baseline`",
    )
    verb.add_argument(
        "--head",
        metavar="REV|RUN",
        help="what to judge: a revision (default: the working tree), or a run (default: the newest of the suite)",
    )
    verb.add_argument("--suite", metavar="S", help="what is measured (default: gate_cpu), or whose newest run is head")
    verb.add_argument("--config-dir", metavar="DIR", help="your own suites, laid out like suites/")
    verb.add_argument(
        "--inconclusive", choices=["warn", "fail"], help="exit code of cells that cannot be judged: 0 or 5"
    )
    verb.add_argument(
        "--declare", action="append", default=[], metavar="KEY", help="what may differ: packages.torch, driver, ..."
    )
    verb.add_argument("-o", "--output", metavar="DIR", help="where verdict.json and all that is made of it goes")
    _add_folders(verb)
    verb.usage = "%(prog)s --base REV [--head REV] [--suite S] [KEY=VALUE ...] | --base RUN [--head RUN]"
    verb.set_defaults(overrides=[])


def _add_baseline(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=["list", "approve", "expire"])
    verb.add_argument("runs", nargs="*", metavar="RUN|SUITE", help="approve: a run, a job or a candidate; else suites")
    verb.add_argument(
        "--cells",
        nargs="+",
        action="extend",
        metavar="CELL",
        help="a cell's id, its first 8 digits, or whole words of its label: b1 is not b16, and 'BD b1' wants both; of "
        "several CELLs any (default: approve takes all, expire what is over)",
    )
    verb.add_argument("--reason", metavar="TEXT", help="why these values are to be the baseline")
    verb.add_argument("--until", metavar="DATE|URL", help="how long what is worse is accepted")
    _add_folders(verb)


def _add_folders(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--results-dir", default="results", metavar="DIR")
    verb.add_argument("--baselines-dir", default="results/baselines", metavar="DIR")


_ADDS = {
    "merge": _add_merge,
    "report": _add_report,
    "doctor": _add_doctor,
    "compare": _add_compare,
    "gate": _add_gate,
    "baseline": _add_baseline,
}
