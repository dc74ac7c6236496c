"""Display of values: colours, thresholds, value mappings, and properties for field overrides."""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"

# Age of data in seconds: late, and above the default of `max_staleness`.
AGE_STEPS = ((None, GREEN), (900, ORANGE), (1800, RED))


def thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    """Threshold steps: the value at which each colour starts. The first step has None."""
    made = [models.Threshold(value=start, color=colour) for start, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)


def colours(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    """A colour scheme."""
    return dashboard.FieldColor().mode(mode)


def mapping(texts: Mapping[float, tuple[str, str]]) -> models.ValueMap:
    """A value mapping: value -> text and colour."""
    return models.ValueMap(
        options={
            f"{each:g}": models.ValueMappingResult(text=text, color=colour, index=index)
            for index, (each, (text, colour)) in enumerate(texts.items())
        }
    )


def value(property_id: str, given: object) -> models.DynamicConfigValue:
    """A field property for an override."""
    return models.DynamicConfigValue(id_val=property_id, value=given)


def stepped(steps: Sequence[tuple[float | None, str]]) -> models.DynamicConfigValue:
    """Threshold steps for an override."""
    made = [models.Threshold(value=start, color=colour) for start, colour in steps]
    return value("thresholds", models.ThresholdsConfig(mode=models.ThresholdsMode.ABSOLUTE, steps=made))


def aged() -> list[models.DynamicConfigValue]:
    """Properties of a column that shows the age of data."""
    return [value("unit", "dtdurations"), COLOURED_TEXT, stepped(AGE_STEPS)]


# Shown in place of a missing number.
NOTHING = models.SpecialValueMap(
    options=models.DashboardSpecialValueMapOptions(
        match=models.SpecialValueMatch.NULL_AND_NAN, result=models.ValueMappingResult(text="–", color=GREY)
    )
)


# The text of a cell has the colour of its threshold.
COLOURED_TEXT = value("custom.cellOptions", {"type": "color-text"})


def coloured(colour: str) -> models.DynamicConfigValue:
    """A fixed colour, for an override."""
    return value("color", {"mode": "fixed", "fixedColor": colour})


def dashed(colour: str) -> list[models.DynamicConfigValue]:
    """A dashed line, for expected values and limits."""
    style = {"fill": "dash", "dash": [8, 6]}
    return [coloured(colour), value("custom.lineStyle", style), value("custom.fillOpacity", 0)]
