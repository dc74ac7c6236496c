"""PromQL that several panels share.

Minutes arrive in batches: a quiet media is fetched every few minutes, and after an outage hours are counted in one
step. A gauge shows one minute, so it is averaged over `$interval`. The increase of a counter is taken over the whole
time range, or over a window that is longer than the fetch interval.
"""

# Selectors with the variables of the dashboards.
MERCHANT = 'merchant_id="$merchant"'
MEDIA = f'{MERCHANT}, media_id="$media"'
MERCHANTS = 'merchant_id=~"$merchant"'

DROP_ALERTS = "SmartstreamPlaysDrop|SmartstreamPlaysDropCritical|SmartstreamMerchantPlaysDrop"

PLAYS_STREAM = 'target="play_count", group="all"'


def names(selector: str, *, whole_range: bool = False) -> str:
    """One series for each media. Its label `name` is the name in the catalog, or the media ID if that is not known.

    With `whole_range`, a media has one name for the whole time range, so that its line does not break. `topk` keeps
    one series of a media with two names, because a join on both is an error.
    """

    def info(condition: str) -> str:
        series = f"smartstream_media_info{{{selector}, {condition}}}"
        return f"last_over_time({series}[$__range] @ end())" if whole_range else series

    known, unnamed = info('name!=""'), info('name=""')
    by_id = f'label_replace({unnamed}, "name", "$1", "media_id", "(.*)")'
    return f"topk by (merchant_id, media_id) (1, {known} or {by_id} unless on (merchant_id, media_id) {known})"


def named(expression: str, selector: str, *, whole_range: bool = False) -> str:
    """Adds the label `name` to an expression by media."""
    known = names(selector, whole_range=whole_range)
    return f"({expression}) * on (merchant_id, media_id) group_left (name) {known}"


def mean(gauge: str, selector: str) -> str:
    """The average of a gauge over `$interval`."""
    return f"avg_over_time({gauge}{{{selector}}}[$interval])"


def grown(counter: str, selector: str) -> str:
    """The increase of a counter over the whole time range."""
    return f"increase({counter}{{{selector}}}[$__range])"


def against_expected(scope: str, selector: str) -> str:
    """Plays divided by expected plays over `$interval`, where at least one play per minute is expected.

    `scope` is "" or "merchant_".
    """
    plays = mean(f"smartstream_{scope}last_minute_plays", selector)
    return f"{plays} / ({mean(f'smartstream_{scope}last_minute_expected_plays', selector)} >= 1)"


def drop_state(selector: str) -> str:
    """For each media the state of its drop: 0 none, 1 above the warning threshold, 2 above the critical threshold."""
    ratio = f"smartstream_plays_drop_ratio{{{selector}}}"
    exceeds = " + on (merchant_id, media_id) ".join(
        f"({ratio} > bool on (merchant_id, media_id) "
        f'smartstream_drop_threshold_ratio{{{selector}, severity="{severity}"}})'
        for severity in ("warning", "critical")
    )
    return f"max by (merchant_id, media_id) ({exceeds})"


def split(group: str, *, media: bool = False) -> str:
    """Plays over the whole time range, split by a group, of one media or of the merchant.

    If the streams of the whole merchant are not collected, this is the sum over its media.
    """
    of_media = f"sum by ({group}) ({grown(f'smartstream_plays_by_{group}_total', MEDIA if media else MERCHANT)})"
    if media:
        return f"sort_desc({of_media} > 0)"
    of_merchant = f"sum by ({group}) ({grown(f'smartstream_merchant_plays_by_{group}_total', MERCHANT)})"
    return f"sort_desc(({of_merchant} or {of_media}) > 0)"
