"""All dashboards, and how they are written down."""

import json
from collections.abc import Mapping

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import exporter, media, overview

BUILDERS = {"overview": overview.build, "media": media.build, "exporter": exporter.build}


def documents() -> Mapping[str, str]:
    """The JSON of each dashboard by the name of its file; the same at every call."""
    return {f"{name}.json": _document(name) for name in BUILDERS}


def _document(name: str) -> str:
    made = BUILDERS[name]().build()
    # Annotations, links and overrides find a panel by its number, so it must not depend on who loads it.
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return json.dumps(made, cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
