"""PromQL that several panels share.

Minutes arrive in batches: a quiet media is asked about every many minutes, and after an outage hours are counted in
one step. So a gauge, which shows one minute, is averaged over `$interval`; what a counter grew by is taken over
the whole range that is shown, or over windows that are longer than a fetch interval.
"""

# What the variables of the dashboards select.
MERCHANT = 'merchant_id="$merchant"'
MEDIA = f'{MERCHANT}, media_id="$media"'
MERCHANTS = 'merchant_id=~"$merchant"'

DROP_ALERTS = "SmartstreamPlaysDrop|SmartstreamPlaysDropCritical|SmartstreamMerchantPlaysDrop"

PLAYS_STREAM = 'target="play_count", group="all"'


def names(selector: str, *, whole_range: bool = False) -> str:
    """One series for each media, its label `name` that of the catalog, or the id where the name is not known.

    With `whole_range` a media has one name for all the range that is shown, so its line is one. `topk` keeps one
    where there are two names of a media, which would be an error in a join.
    """

    def info(condition: str) -> str:
        series = f"smartstream_media_info{{{selector}, {condition}}}"
        return f"last_over_time({series}[$__range] @ end())" if whole_range else series

    known, unnamed = info('name!=""'), info('name=""')
    by_id = f'label_replace({unnamed}, "name", "$1", "media_id", "(.*)")'
    return f"topk by (merchant_id, media_id) (1, {known} or {by_id} unless on (merchant_id, media_id) {known})"


def named(expression: str, selector: str, *, whole_range: bool = False) -> str:
    """An expression by media with the label `name` added."""
    known = names(selector, whole_range=whole_range)
    return f"({expression}) * on (merchant_id, media_id) group_left (name) {known}"


def mean(gauge: str, selector: str) -> str:
    """The mean of a gauge over `$interval`."""
    return f"avg_over_time({gauge}{{{selector}}}[$interval])"


def grown(counter: str, selector: str) -> str:
    """By how much a counter grew in the range that is shown."""
    return f"increase({counter}{{{selector}}}[$__range])"


def against_expected(scope: str, selector: str) -> str:
    """The plays of `$interval` as a share of the expected ones, where that is at least one a minute.

    `scope` is "" or "merchant_".
    """
    plays = mean(f"smartstream_{scope}last_minute_plays", selector)
    return f"{plays} / ({mean(f'smartstream_{scope}last_minute_expected_plays', selector)} >= 1)"


def drop_state(selector: str) -> str:
    """For each media 0, 1 for a drop above the warning's threshold, 2 for one above the critical one's, too."""
    ratio = f"smartstream_plays_drop_ratio{{{selector}}}"
    exceeds = " + on (merchant_id, media_id) ".join(
        f"({ratio} > bool on (merchant_id, media_id) "
        f'smartstream_drop_threshold_ratio{{{selector}, severity="{severity}"}})'
        for severity in ("warning", "critical")
    )
    return f"max by (merchant_id, media_id) ({exceeds})"


def split(group: str, *, media: bool = False) -> str:
    """The plays of the range that is shown, by a group: of one media, or of the merchant.

    A merchant whose streams are not fetched as a whole has the sum over its media.
    """
    of_media = f"sum by ({group}) ({grown(f'smartstream_plays_by_{group}_total', MEDIA if media else MERCHANT)})"
    if media:
        return f"sort_desc({of_media} > 0)"
    of_merchant = f"sum by ({group}) ({grown(f'smartstream_merchant_plays_by_{group}_total', MERCHANT)})"
    return f"sort_desc(({of_merchant} or {of_media}) > 0)"
