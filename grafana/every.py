"""All dashboards and their JSON."""

import json
from collections.abc import Mapping

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import exporter, media, overview

BUILDERS = {"overview": overview.build, "media": media.build, "exporter": exporter.build}


def documents() -> Mapping[str, str]:
    """File name -> JSON of the dashboard. Deterministic."""
    return {f"{name}.json": _document(name) for name in BUILDERS}


def _document(name: str) -> str:
    made = BUILDERS[name]().build()
    # Links refer to panels by ID, so the IDs are fixed here and not assigned by the Grafana that loads the file.
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return json.dumps(made, cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
