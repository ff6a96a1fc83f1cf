"""Whether a net learned, and if not, what the numbers from inside it say about why. docs/verdicts.md has the rules."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lenetexp.training.evaluate import Diverged, is_better_than_chance
from lenetexp.training.state import EpochRecord

LEARNED, FAILED, COLLAPSED, DIVERGED = "learned", "did not learn", "collapsed", "diverged"
# Where the rules begin to hold. In nets that learn on digits, the shares of saturated units are at most 0.03, updates
# between 5e-4 and 5e-3, the deviation before the output layer and the ratio of gradients above 0.3: docs/verdicts.md.
SATURATED = 0.9  # share of a layer
TOO_LARGE, TOO_SMALL = 0.03, 1e-4  # size of a step, relative to the weights
FAR_TOO_LARGE = 0.3  # of which a tenth may still be too large
EXPLODED = 1000.0  # loss; guessing has the logarithm of the number of classes
SAME_FOR_ALL = 0.02  # deviation from image to image
VANISHED = 0.02  # gradient of the first layer, relative to that of the last


@dataclass(frozen=True)
class Verdict:
    """How a net's learning ended, with up to two sentences that say why and what to try."""

    ending: str  # LEARNED, FAILED, COLLAPSED or DIVERGED
    text: str  # the same, with the epoch
    reasons: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return "; ".join([self.text, *self.reasons])

    @property
    def explanation(self) -> str:
        """What the sentence adds to the ending."""
        return "; ".join(self.reasons) if self.text == self.ending and self.reasons else self.sentence


def judge_training(
    history: Sequence[EpochRecord], classes: int, images: int, diverged: Diverged | None = None
) -> Verdict:
    """Judge a finished training.

    Args:
        history: The records of its epochs.
        classes: Number of classes.
        images: Number of validation images.
        diverged: The exception that ended the training, if one did.
    """
    if diverged is not None:
        return Verdict(DIVERGED, DIVERGED, (f"{diverged}: {_advise_smaller(is_far=not history)}",))
    chance, last = 1 / classes, history[-1].val_accuracy
    good_epochs = [record for record in history if is_better_than_chance(record.val_accuracy, classes, images)]
    best = max(record.val_accuracy for record in history)
    is_still_good = is_better_than_chance(last, classes, images) and last - chance >= (best - chance) / 2
    if is_still_good:
        return Verdict(LEARNED, LEARNED)
    if not good_epochs:
        return Verdict(FAILED, FAILED, tuple(_list_reasons(history))[:2])
    # The last epoch that was good by the same measure.
    good = [record.epoch for record in good_epochs if record.val_accuracy - chance >= (best - chance) / 2]
    return Verdict(COLLAPSED, f"{COLLAPSED} after epoch {good[-1]}", tuple(_list_reasons(history[good[-1] :]))[:2])


def _advise_smaller(is_far: bool) -> str:
    """Say what to do about a learning rate that is too large, or so far too large that a tenth may be as well."""
    find = "python scripts/find_lr.py with the same settings shows which rates learn"
    return f"optimizer.lr is far too large; {find}" if is_far else "optimizer.lr is too large, try a tenth"


def _list_reasons(history: Sequence[EpochRecord]) -> Iterator[str]:
    """Yield what the records of failed epochs show, the most telling first."""
    diagnostics = [record.inside for record in history if record.inside]
    if not diagnostics:
        return
    last = diagnostics[-1]
    layers = list(dict.fromkeys(key.rpartition("/")[0] for key in last))
    dead = next((layer for layer in layers if last.get(f"{layer}/dead", 0.0) >= SATURATED), None)
    flat = next((layer for layer in layers if last.get(f"{layer}/saturated", 0.0) >= SATURATED), None)
    # The schedule's last steps are tiny; what a layer behind a dead one does is no guide.
    steps = {layer: median(one.get(f"{layer}/update_ratio", 0.0) for one in diagnostics) for layer in layers}
    largest = max(layers, key=lambda layer: steps[layer])
    if dead is not None:
        yield f"{last[f'{dead}/dead']:.0%} of {dead} is dead (flat for every image), so that nothing passes it"
    elif flat is not None:
        share = f"{last[f'{flat}/saturated']:.0%}"
        yield f"{share} of what {flat} passes on is saturated, where its activation has almost no slope"
    highest = max(record.train_loss for record in history)
    if highest > EXPLODED:
        yield f"the loss rose to {highest:.0e}: {_advise_smaller(is_far=True)}"
    elif steps[largest] > TOO_LARGE:
        size = f"{steps[largest]:.0%} of its weights"
        yield f"one step changes {largest} by {size}: {_advise_smaller(is_far=steps[largest] > FAR_TOO_LARGE)}"
    elif (
        len(diagnostics) > 1
        and max(one.get(f"{largest}/update_ratio", 0.0) for one in diagnostics) < TOO_SMALL
        and not dead
    ):
        size = f"{steps[largest]:.0e} of its weights"
        yield f"one step changes no layer by more than {size}: optimizer.lr is too small, try ten times as much"
    elif dead is not None or flat is not None:
        yield "a smaller optimizer.lr or another model.activation may keep it alive"
    if dead is None and flat is None:
        yield from _detect_vanishing(last, layers)


def _detect_vanishing(last: Mapping[str, float], layers: Sequence[str]) -> Iterator[str]:
    """Yield whether differences between images vanish on their way forward, or the gradient on its way back."""
    if len(layers) < 2:
        return
    spread = last.get(f"{layers[-2]}/activation_deviation", 1.0)
    gradients = [last.get(f"{layers[end]}/gradient_norm", 1.0) for end in (0, -1)]
    wider = "start with wider weights (model.init=xavier), train longer or try another model.activation"
    if spread < SAME_FOR_ALL:
        yield f"what reaches {layers[-1]} differs by only {spread:.0e} from image to image: {wider}"
    if gradients[0] < VANISHED * gradients[1]:
        yield f"the gradient at {layers[0]} is only {gradients[0] / gradients[1]:.0e} of that at {layers[-1]}"
