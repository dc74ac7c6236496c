"""How values look: colours, thresholds, texts, and the properties that an override gives a field."""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"

# From which age on (seconds) data is old, or older than `max_staleness` allows by default.
AGE_STEPS = ((None, GREEN), (900, ORANGE), (1800, RED))


def thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    """Colours from values on; the first step has None."""
    made = [models.Threshold(value=start, color=colour) for start, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)


def colours(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    """A scheme of colours."""
    return dashboard.FieldColor().mode(mode)


def mapping(texts: Mapping[float, tuple[str, str]]) -> models.ValueMap:
    """A text and a colour for each value."""
    return models.ValueMap(
        options={
            f"{each:g}": models.ValueMappingResult(text=text, color=colour, index=index)
            for index, (each, (text, colour)) in enumerate(texts.items())
        }
    )


def value(property_id: str, given: object) -> models.DynamicConfigValue:
    """A property of a field that an override sets."""
    return models.DynamicConfigValue(id_val=property_id, value=given)


def stepped(steps: Sequence[tuple[float | None, str]]) -> models.DynamicConfigValue:
    """Colours from values on, for an override."""
    made = [models.Threshold(value=start, color=colour) for start, colour in steps]
    return value("thresholds", models.ThresholdsConfig(mode=models.ThresholdsMode.ABSOLUTE, steps=made))


def aged() -> list[models.DynamicConfigValue]:
    """A column that tells how old data is."""
    return [value("unit", "dtdurations"), COLOURED_TEXT, stepped(AGE_STEPS)]


# A cell without a number.
NOTHING = models.SpecialValueMap(
    options=models.DashboardSpecialValueMapOptions(
        match=models.SpecialValueMatch.NULL_AND_NAN, result=models.ValueMappingResult(text="–", color=GREY)
    )
)


# A cell whose number has the colour of its step.
COLOURED_TEXT = value("custom.cellOptions", {"type": "color-text"})


def coloured(colour: str) -> models.DynamicConfigValue:
    """A fixed colour for an override."""
    return value("color", {"mode": "fixed", "fixedColor": colour})


def dashed(colour: str) -> list[models.DynamicConfigValue]:
    """A line that is no measurement: an expectation, a limit."""
    style = {"fill": "dash", "dash": [8, 6]}
    return [coloured(colour), value("custom.lineStyle", style), value("custom.fillOpacity", 0)]
