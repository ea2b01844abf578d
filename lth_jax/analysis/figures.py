"""Figures: labelled results in, matplotlib figures out. Nothing is trained here.

Matplotlib is imported where a figure is drawn, so that importing the library stays quick.
"""

import contextlib
import contextvars
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lth_jax.errors import require
from lth_jax.initializers import Scheme
from lth_jax.places import user_path
from lth_jax.runs.storage import write_whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#000000", "#a0522d")
"""Paul Tol's bright palette, told apart by colour-blind readers, and three more."""
MARKERS = "osD^vP*Xh"


PAPER = {1: 3.4, 2: 7.0}
"""Width in inches of a figure over so many columns of a paper."""
FONTS: dict[Any, Any] = {
    **{"font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "figure.titlesize": 8},
    **{"xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "lines.linewidth": 1.0},
}
"""What a figure for a paper is drawn with: sizes in points, as they are printed."""
TEXT: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "lth_jax"}
"""Vector figures keep text as text, which can be searched and changed."""

_COLUMNS: contextvars.ContextVar[int | None] = contextvars.ContextVar("columns of a paper", default=None)


@contextlib.contextmanager
def for_paper(columns: int | None) -> Iterator[None]:
    """Inside, figures are as wide as so many columns of a paper and drawn for print; ``None``: for a screen.

    Args:
      columns: 1 or 2, see ``PAPER``.
    """
    import matplotlib

    token = _COLUMNS.set(columns)
    try:
        with matplotlib.rc_context({} if columns is None else FONTS):
            yield
    finally:
        _COLUMNS.reset(token)


def is_for_paper() -> bool:
    """Whether figures are drawn for a paper, whose captions say what a title would."""
    return _COLUMNS.get() is not None


def new_figure(
    columns: int = 1, width: float = 6.4, height: float = 4.2, rows: int = 1, **options: Any
) -> Any:
    """A figure with rows of axes, drawn without a screen; ``(figure, axes)`` as from ``plt.subplots``.

    Inside :func:`for_paper` it is as wide as the paper's columns, its shape stays.

    Args:
      columns: axes in a row.
      width: of one of them, inches.
      height: of one of them, inches.
      rows: of axes.
      **options: for ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = np.array([width * columns, height * rows])
    if chosen := _COLUMNS.get():
        size = size * PAPER[chosen] / size[0]
    figure = Figure(figsize=tuple(size.tolist()), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, **options)
    for ax in np.ravel(axes):
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


FORMATS = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What a figure can be written as, and what it does not say so that the same results give the same bytes."""


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a PNG, SVG or PDF as the file's name says, whole or not at all.

    A PNG has 120 pixels an inch, inside :func:`for_paper` 300.

    Raises:
      InputError: its name ends in something else.
    """
    import matplotlib

    path = user_path(path)
    kind = path.suffix.lstrip(".").lower()
    require(kind in FORMATS, f"{path}: figures are written as {', '.join(FORMATS)}")
    with matplotlib.rc_context(TEXT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # as many labels as there are
        warnings.filterwarnings("ignore", 'Creating legend with loc="best"')  # after a second
        options = {"format": kind, "dpi": 300 if _COLUMNS.get() else 120, "metadata": FORMATS[kind]}
        write_whole(path, lambda aside: figure.savefig(aside, **options))
    return path


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the n-th line."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4}


def bars(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far bars reach down and up from a mean, ``[2, ...]``: never below 0, NaN where a value is.

    The mean of equal numbers may lie beyond them by rounding, which Matplotlib refuses to draw.
    """
    return np.maximum(np.stack([mean - low, high - mean]), 0)


def label(name: str) -> str:
    """A name for a legend."""
    name = f"He{name[2:]}" if name.startswith("he_") else name
    return name.replace("_", " ").replace("xavier", "Xavier").replace("kaiming", "Kaiming")


def density(scheme: Scheme, fan_in: int, fan_out: int, at: np.ndarray) -> np.ndarray:
    """A scheme's probability density at the given weights, for one layer's fans."""
    spread, x = scheme.spread(fan_in, fan_out), at - scheme.center
    if scheme.kind == "uniform":
        return np.where(np.abs(x) <= spread, 1 / (2 * spread), 0.0)
    normal = np.exp(-0.5 * (x / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    if scheme.kind == "normal":
        return normal
    inside = 0.9544997361036416  # of a normal's mass lies within two standard deviations
    return np.where(np.abs(x) <= 2 * spread, normal / inside, 0.0)


def densities(schemes: Mapping[str, Scheme], layers: Mapping[str, tuple[int, int]]) -> "Figure":
    """Probability density of each scheme, one panel per layer.

    Args:
      schemes: by name.
      layers: fan-in and fan-out by layer name.
    """
    figure, axes = new_figure(len(layers), width=4.2, squeeze=False)
    for ax, (layer, fan) in zip(axes[0], layers.items(), strict=True):
        # Standard schemes would flatten all others: the axis shows three of the median spread.
        reach = 3 * float(np.median([scheme.spread(*fan) for scheme in schemes.values()]))
        at = np.linspace(-reach, reach, 1001)
        for index, (name, scheme) in enumerate(schemes.items()):
            ax.plot(at, density(scheme, *fan, at), color=style(index)["color"], label=label(name))
        ax.set(title=f"{layer} ({fan[0]} → {fan[1]})", xlabel="weight", ylabel="probability density")
    axes[0][-1].legend(fontsize=7)
    return figure


def size_over_epochs(kept: np.ndarray, epochs_per_level: int) -> "Figure":
    """Fraction of weights kept over the epochs of a sweep.

    Args:
      kept: fraction in [0, 1] during each level.
      epochs_per_level: epochs between two prunings.
    """
    figure, ax = new_figure()
    epochs = np.arange(len(kept) + 1) * epochs_per_level
    ax.stairs(np.asarray(kept) * 100, epochs, baseline=0, fill=True, color=COLORS[0], alpha=0.35)
    ax.set(xlabel="epoch", ylabel="weights remaining (%)", ylim=(0, 102))
    return figure


def against_kept(
    ax: "Axes", measured: "xr.Dataset", variable: str, over: str = "initializer", scale: float = 100.0
) -> None:
    """Mean ± standard deviation over seeds against the fraction of weights kept, a line per ``over``.

    Args:
      ax: where to draw.
      measured: with dims ``over``, ``seed``, ``level``, and the variable ``kept``.
      variable: what to draw, for example ``test_accuracy``.
      over: the dimension whose entries become lines.
      scale: what values are multiplied by; 100 turns fractions into percent.
    """
    values = measured[variable].where(np.isfinite(measured[variable])) * scale
    mean, spread = values.mean("seed"), values.std("seed", ddof=1)
    for index, name in enumerate(measured[over].values):
        kept = measured["kept"].sel({over: name}).mean("seed") * 100
        # A few per cent apart, so that error bars of different lines can be told apart.
        shift = 1 + 0.012 * (index - (measured.sizes[over] - 1) / 2)
        ax.errorbar(
            kept * shift, mean.sel({over: name}), spread.sel({over: name}),
            label=label(str(name)), capsize=2, linewidth=1.2, elinewidth=0.8, **style(index),
        )  # fmt: skip
    kept_axis(ax, measured["kept"].mean([d for d in measured["kept"].dims if d != "level"]).values)
    ax.legend(fontsize=7)


def bands(
    ax: "Axes",
    at: Sequence[float] | np.ndarray,
    samples: np.ndarray,
    name: str,
    index: int = 0,
    center: np.ndarray | None = None,
    percentiles: tuple[float, float] = (5.0, 95.0),
) -> None:
    """A line with a band around it, in which most of the samples lie.

    Args:
      ax: where to draw.
      at: the horizontal axis, one number per point.
      samples: ``[sample, point]``; what is not finite is left out.
      name: for the legend.
      index: which colour, see :func:`style`.
      center: the line, one number per point; the samples' mean when not given.
      percentiles: the band's lower and upper end, in percent.
    """
    finite = [column[np.isfinite(column)] for column in np.asarray(samples).T]
    ends = np.array([np.percentile(c, percentiles) if c.size else (np.nan, np.nan) for c in finite])
    if center is None:
        center = np.array([column.mean() if column.size else np.nan for column in finite])
    low, high = ends.T
    color = style(index)["color"]
    ax.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(at, center, color=color, label=name)


def kept_axis(ax: "Axes", kept: Sequence[float] | np.ndarray) -> None:
    """A logarithmic axis of weights remaining, in percent, dense on the left, ticks at the levels."""
    from matplotlib.ticker import NullLocator

    percent = np.asarray(kept) * 100
    narrow = _COLUMNS.get() == 1
    ticks = percent[:: max(1, -(-len(percent) // 7) if narrow else len(percent) // 10)]
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=7 if _COLUMNS.get() else 8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights remaining (%)")


def save_all(
    figures: Mapping[str, Callable[[], "Figure"]],
    folder: Path,
    format: str = "png",
    columns: int | None = None,
) -> list[Path]:
    """Draw and write each figure as ``NAME.png``, or in another of ``FORMATS``; see :func:`for_paper`."""
    with for_paper(columns):
        return [save(draw(), folder / f"{name}.{format}") for name, draw in figures.items()]
