"""python -m deploy.kubernetes.prometheus_rule: write deploy/prometheus/rules/ as a PrometheusRule for the operator.

Kustomize cannot insert a file into a custom resource. A test compares the two.
"""

import textwrap
from pathlib import Path

RULES = sorted((Path(__file__).parent.parent / "prometheus" / "rules").glob("*.yml"))
OUTPUT = Path(__file__).parent / "components" / "prometheus-rule" / "prometheusrule.yaml"
HEAD = """\
# Written by python -m deploy.kubernetes.prometheus_rule from deploy/prometheus/rules/; change the rules there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: aaserve
  labels:
    app.kubernetes.io/name: aaserve
spec:
  groups:
"""


def prometheus_rule() -> str:
    """The whole manifest."""
    return HEAD + "".join(textwrap.indent(path.read_text().split("\ngroups:\n")[1], "  ") for path in RULES)


if __name__ == "__main__":
    OUTPUT.write_text(prometheus_rule())
