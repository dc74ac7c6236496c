"""`python -m grafana`: generate the JSON of the dashboards."""

from pathlib import Path

from grafana.every import documents

FOLDER = Path(__file__).parent / "dashboards"

if __name__ == "__main__":
    for name, document in documents().items():
        (FOLDER / name).write_text(document)
