"""A verdict as JUnit XML: one testcase a rule and cell, and a real <failure> where one keeps the exit code from 0."""

from __future__ import annotations

from xml.etree import ElementTree

from harness.analysis.verdict import Verdict
from harness.records.texts import said
from harness.report.gate import entries as lines_of
from harness.report.gate.entries import UNDECIDED, Entry


def junit_text(verdict: Verdict) -> str:
    """The first testcase is the verdict itself, so that no consumer takes a red gate for a green one."""
    suite = ElementTree.Element("testsuite", name=f"canvasbench gate: {said(verdict.suite)}")
    first = _case(suite, "verdict")
    if verdict.exit_code:
        ElementTree.SubElement(first, "failure", message=lines_of.headline(verdict))
    for entry in lines_of.entries(verdict):
        _entry(_case(suite, f"{entry.name}: {entry.label}"), entry)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name)


def _entry(case: ElementTree.Element, entry: Entry) -> None:
    _describe(case, entry)
    message = f"{entry.state}: {said(entry.reason, 400)}"
    if entry.is_red:
        found = ElementTree.SubElement(case, "failure", type=str(entry.state), message=message)
        found.text = f"base {entry.base}, head {entry.head}, change {entry.change}, noise {entry.spread}"
    elif entry.state in UNDECIDED:
        ElementTree.SubElement(case, "skipped", message=message)


def _describe(case: ElementTree.Element, entry: Entry) -> None:
    """value, baseline and noise as numbers: what a consumer may want to plot. The noise is a share of the value."""
    facts = {"state": str(entry.state), "cell_id": said(entry.cell.cell_id)}
    if entry.rule is not None:
        numbers = {
            "value": entry.rule.head,
            "baseline": entry.rule.base,
            "ratio": entry.rule.ratio,
            "noise": entry.noise,
            "mde": entry.rule.mde,
            "p_adjusted": entry.rule.p_adjusted,
        }
        facts |= {"metric": said(entry.rule.metric), "unit": said(entry.rule.unit)}
        facts |= {name: repr(value) for name, value in numbers.items() if value is not None}
    properties = ElementTree.SubElement(case, "properties")
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
