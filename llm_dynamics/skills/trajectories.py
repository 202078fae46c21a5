"""Questions along a series of checkpoints: right or wrong, how probable, learned, forgotten.

A question is a probe with a target, right if that is the most probable text token by token; or
probes that are the choices of one item, right if the right one is more probable than every other.

Axes: S checkpoints, I questions, P probes.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.probe.records import CHOICE, ITEM, NO, RIGHT, YES
from llm_dynamics.spec import nearest

_OF_CHOICES = (ITEM, CHOICE, RIGHT)
GROUP = "group"  # label of what questions are about, where none is named


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Questions along checkpoints.

    Attributes:
      steps_S: updates done, ascending.
      tokens_S: training tokens seen; 0 = not known.
      names: of the questions.
      labels: {label: its value of every question}.
      group_I: questions of one group are not independent of each other.
      choices_I: to choose from; 1 where a target is asked for.
      right_SxI: whether a question is answered rightly.
      logprob_SxI: mean ln p of the tokens of the target, or of the right choice; nats per token.
    """

    steps_S: np.ndarray
    tokens_S: np.ndarray
    names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    group_I: np.ndarray
    choices_I: np.ndarray
    right_SxI: np.ndarray
    logprob_SxI: np.ndarray

    def parts(self, by: str) -> dict[str, np.ndarray]:
        """Questions of all, and of every value of a label: {name: indices}; "" = all alone.

        Raises:
          UserError: an unknown label.
        """
        found = {"all": np.arange(len(self.names))}
        if by:
            if by not in self.labels:
                raise UserError(f"the probes have no label {by!r}; {nearest(by, self.labels)}")
            value_I = self.labels[by]
            found |= {f"{by}={v}": np.flatnonzero(value_I == v) for v in np.unique(value_I)}
        return found


@dataclasses.dataclass(frozen=True)
class Learning:
    """When questions are learned and forgotten, in checkpoints of a series (counted from 0).

    Attributes:
      first_I: the first one that answers rightly; S = none.
      kept_I: the one from which on all do; S = the last one does not.
      events_I: forgetting events, one for each right answer that is wrong at the next checkpoint.
    """

    first_I: np.ndarray
    kept_I: np.ndarray
    events_I: np.ndarray


def learning(right_SxI: np.ndarray) -> Learning:
    """Learning and forgetting of questions.

    A forgetting event is that of Toneva et al. 2019 (arXiv:1812.05159, section 2), from one
    checkpoint to the next rather than from one showing of an example to the next.
    """
    count = len(right_SxI)
    first_I = np.where(right_SxI.any(axis=0), right_SxI.argmax(axis=0), count)
    wrong_SxI = ~right_SxI[::-1]
    kept_I = np.where(wrong_SxI.any(axis=0), count - wrong_SxI.argmax(axis=0), 0)
    events_I = (right_SxI[:-1] & ~right_SxI[1:]).sum(axis=0)
    return Learning(first_I, kept_I, events_I)


def trajectories(log: xr.Dataset, group: str = "") -> Trajectories:
    """The questions of a probe log whose rows are all there.

    Args:
      log: from `probe.log.open_log`; choices are told by the labels `item`, `choice` and `right`.
      group: label of what questions are about; "" = the label `group` where there is one.

    Raises:
      UserError: an unknown label, choices without one right, or scores that are not finite.
    """
    known = [str(n) for n in log.coords if log[n].dims == ("probe",) and n != "probe"]
    if group and group not in known:
        raise UserError(f"the probes have no label {group!r}; {nearest(group, known)}")
    values = log["score"].values.astype(float)
    if not np.isfinite(values).all():
        raise UserError("expected finite scores of all steps, got others: the log is not complete")
    score = dict(zip(log["measure"].values.tolist(), np.moveaxis(values, 2, 0), strict=True))
    index_P, right_P, choices_I = _items(log, known)
    own_I = np.flatnonzero(right_P)[np.argsort(index_P[right_P], kind="stable")]
    sum_SxP = score["logprob_sum"]
    others_IxS = np.full((len(own_I), len(sum_SxP)), -np.inf)
    np.maximum.at(others_IxS, index_P[~right_P], sum_SxP[:, ~right_P].T)
    labels = {
        n: log[n].values[own_I].astype(str)
        for n in known
        if n not in (*_OF_CHOICES, "context", "target", "num_target_tokens")
    }
    names = log["probe"].values[own_I].astype(str)
    if ITEM in known:
        item_I = log[ITEM].values[own_I].astype(str)
        names = np.where(choices_I > 1, item_I, names)
    about_I = labels.get(group or GROUP, np.full(len(names), ""))
    key_I = [f"group {g}" if g else f"question {n}" for g, n in zip(about_I, names, strict=True)]
    chosen_SxI = sum_SxP[:, own_I] > others_IxS.T
    return Trajectories(
        steps_S=log["step"].values,
        tokens_S=log["tokens"].values,
        names=tuple(names.tolist()),
        labels=labels,
        group_I=np.unique(key_I, return_inverse=True)[1],
        choices_I=choices_I,
        right_SxI=np.where(choices_I > 1, chosen_SxI, score["greedy_match"][:, own_I] == 1),
        logprob_SxI=score["logprob_mean"][:, own_I],
    )


def _items(log: xr.Dataset, known: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The question of each probe, whether it is the right one of it, and choices of each."""
    names = log["probe"].values.astype(str)
    count = len(names)
    if not set(_OF_CHOICES) <= set(known):
        return np.arange(count), np.ones(count, bool), np.ones(count, int)
    item_P, said_P = (log[key].values.astype(str) for key in (ITEM, RIGHT))
    one_P = (item_P != "") & np.isin(said_P, (YES, NO))
    number: dict[tuple[bool, str], int] = {}
    index_P = np.array(
        [
            number.setdefault((one, item if one else name), len(number))
            for one, item, name in zip(*map(np.ndarray.tolist, (one_P, item_P, names)), strict=True)
        ]
    )
    right_P = ~one_P | (said_P == YES)
    rights_I = np.bincount(index_P, right_P, minlength=len(number))
    if (rights_I != 1).any():
        _, name = list(number)[int(np.flatnonzero(rights_I != 1)[0])]
        raise UserError(f"expected one right choice of the item {name!r}, got others")
    return index_P, right_P, np.bincount(index_P)
