"""Every PromQL expression of the dashboard, the rules and the alerts, and the metric names in them."""

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from tests.helpers import ROOT

DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "aaserve.json"
_NAME = re.compile(r"\b(?:aaserve|process|python)(?:_\w+|:[\w:]+)")


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and where it stands."""

    where: str
    expr: str

    @property
    def names(self) -> set[str]:
        """The metrics it reads."""
        return set(_NAME.findall(self.expr))


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def rule_queries() -> list[Query]:
    return [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def dashboard_queries() -> list[Query]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        Query(f"{panel['title']} {target['refId']}", target["expr"])
        for panel in panels
        for target in panel.get("targets", [])
    ]


def recorded() -> set[str]:
    """Names that the recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}
