"""What the figures of experiments share: colours, and axes without what isn't needed."""

from matplotlib.axes import Axes

# Okabe and Ito's palette, which stays apart for readers of every kind of colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)  # of the lines of a plot, in this order


def tidy(axes: Axes) -> None:
    """A faint grid behind what is drawn, and no frame above and on the right."""
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
