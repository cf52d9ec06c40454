"""How every chart is drawn, whatever is on it."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path


def prepare(matplotlib) -> None:
    """Charts without a screen, small, and the same file for the same figures."""
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"
    matplotlib.rcParams["svg.fonttype"] = "none"  # letters instead of their outlines: a fifth of the size


def save(figure, path: Path) -> None:
    """Write `figure` as SVG."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    path.write_text(smaller(drawn.getvalue()))


def smaller(text: str) -> str:
    """An SVG without what nobody sees: digits beyond a tenth of a point, indentation, names that nothing uses."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<![\w.])(-?\d+\.\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    while (flatter := re.sub(r"<g>\n((?:<(?!/?g\b)[^>]*>\n?)*)</g>\n", r"\1", text)) != text:
        text = flatter
    text = re.sub(r"\n?([MLz]) ?\n?(?=[\d\"LMz-])", r" \1 ", text)
    return _share_styles(text)


def _share_styles(text: str) -> str:
    """Styles that several elements have, once, as classes."""
    counts = Counter(re.findall(r' style="([^"]*)"', text))
    names = {style: f"s{number}" for number, (style, count) in enumerate(counts.most_common()) if count > 2}
    for style, name in names.items():
        text = text.replace(f' style="{style}"', f' class="{name}"')
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())
    return text.replace("</style>", f"\n{rules}</style>", 1)
