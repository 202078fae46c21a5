"""The forecasts of a fitted law as results rows."""

from collections.abc import Sequence

from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.forecast import OF, accumulates, forecast, keep_at_least, over_forms
from llm_dynamics.facts.kernel import FORMS, UNITS, Kernel
from llm_dynamics.results import Interval, Row, exact, interval_row

_LAW = {
    "power": "(1 + lag / onset)^-exponent",
    "power_floor": "floor + (1 - floor) (1 + lag / onset)^-exponent",
    "logarithm": "max(0, 1 - slope log10(1 + lag / onset))",
}
_MEANING = {
    "effect": "control-subtracted gain of an encounter of a fact that holds nothing yet, at its "
    "best moment",
    "saturation": "fall of the log of what an encounter adds per nat already held",
    "exponent": "of the decay",
    "floor": "share of an encounter that is never forgotten",
    "slope": "share of an encounter lost per factor of ten in lag",
}


def forecast_rows(
    kernels: Sequence[Kernel],
    tokens_per_step: float,
    schedules: Sequence[tuple[int, int, int]] = (),
    levels: Sequence[float] = (),
    every_tokens: float | None = None,
    prefix: str = "forecast",
) -> list[Row]:
    """Parameters, forecasts, intervals that keep a level, and the threshold, by each law.

    Several laws of the same facts also give the forecasts with the interval over all of them.

    Args:
      kernels: from `kernel_fit.fit`, of different forms.
      tokens_per_step: of their log.
      schedules: (encounters, interval, steps after the last) to forecast.
      levels: nats/token for `keep_at_least`.
      every_tokens: tokens between encounters, for the batch size that keeps each level.
      prefix: of the names, to tell arms and depths apart.

    Returns:
      Rows {name, value, low, high, unit, n, definition, note}; names read PREFIX/FORM/... What
      does not exist or is infinite is None, `note` says why.

    Raises:
      UserError: as `forecast` and `keep_at_least`.
    """
    rows = []
    for kernel in kernels:
        rows += _of_law(kernel, tokens_per_step, schedules, levels, every_tokens, prefix)
    for encounters, interval, after in schedules if len(kernels) > 1 else ():
        for of, what in OF.items():
            one = over_forms(kernels, encounters, interval, after, of)
            rows.append(
                interval_row(
                    f"{prefix}/any_form/gain_{of}/{encounters}x{interval}+{after}",
                    Interval([one.value], [one.low], [one.high]),
                    "nats/token",
                    one.n,
                    f"forecast of the control-subtracted gain of {what}, {encounters} encounters "
                    f"{interval} steps apart, {after} steps after the last; value of the law with "
                    f"the smallest residual, interval over all laws {_fitted_to(kernels[0])}",
                    one.note,
                )
            )
    return rows


def _fitted_to(kernel: Kernel) -> str:
    arms = ", ".join(arm for arm in kernel.facts if arm != CONTROL)
    return f"fitted to {arms}" + (f" less {CONTROL}" if CONTROL in kernel.facts else "")


def _unmoved(kernel: Kernel, name: str) -> str:
    """Says when an interval has no width for another reason than certainty."""
    draws_R = kernel.parameter(name).draws_RxT[:, 0]
    if len(draws_R) < 2 or draws_R.min() < draws_R.max():
        return ""
    return "the same in every resample: it was given, or lies on a bound where the fits stay"


def _of_law(kernel: Kernel, tokens_per_step, schedules, levels, every_tokens, prefix):
    """Rows of one law."""
    law = (
        f"law of retention {_LAW[kernel.form]} with onset {kernel.onset:g} steps, rising with "
        f"Adam's momentum (beta1 {kernel.beta1:g}), encounters superposed, {_fitted_to(kernel)}"
    )
    path, n = f"{prefix}/{kernel.form}", kernel.estimate(kernel.draws_RxQ).n
    rows = []
    for name in FORMS[kernel.form]:
        found = kernel.parameter(name).interval()
        what = f"{_MEANING[name]}; {law}"
        note = kernel.doubts.get(name, "") or _unmoved(kernel, name)
        rows.append(interval_row(f"{path}/{name}", found, UNITS[name], n, what, note))
    lone = "no arm has two facts of one schedule"
    for name, value, what in (
        ("residual", kernel.residual, "root mean square of the fitted points about the"),
        ("fact_sd", kernel.fact_sd, "standard deviation of single facts' gains about the"),
    ):
        why = "has no interval"
        rows.append(
            interval_row(
                f"{path}/{name}", exact(value), "nats/token", n, f"{what} {law}", why, lone
            )
        )
    for encounters, interval, after in schedules:
        for of, what in OF.items():
            one = forecast(kernel, encounters, interval, after, of)
            rows.append(
                interval_row(
                    f"{path}/gain_{of}/{encounters}x{interval}+{after}",
                    Interval([one.value], [one.low], [one.high]),
                    "nats/token",
                    n,
                    f"forecast of the control-subtracted gain of {what}, {encounters} encounters "
                    f"{interval} steps apart, {after} steps after the last; {law}",
                    one.note,
                )
            )
    for level in levels:
        kept = keep_at_least(kernel, level, tokens_per_step, every_tokens)
        what = f"a fact holds {level:g} nats/token just before its next encounter; {law}"
        for unit, found in (("steps", kept.steps), ("tokens", kept.tokens)):
            name = f"{path}/keep_{level:g}/interval_{unit}"
            rows.append(
                interval_row(name, found, unit, n, f"longest interval at which {what}", kept.note)
            )
        if kept.batch_tokens is not None:
            what = f"smallest batch with which, met once in {every_tokens:g} tokens, {what}"
            name = f"{path}/keep_{level:g}/batch"
            rows.append(interval_row(name, kept.batch_tokens, "tokens", n, what, kept.note))
    threshold = accumulates(kernel, 1)
    for unit, factor in (("steps", 1.0), ("tokens", tokens_per_step)):
        found = Interval(*([v[0] * factor] for v in threshold.threshold))
        what = f"interval between encounters beyond which nothing accumulates; {law}"
        rows.append(interval_row(f"{path}/threshold_{unit}", found, unit, n, what, threshold.note))
    return rows
