"""Take the two figures of the front page and the README from the notebooks' outputs.

    python docs/figures.py

They are reduced to few colours: each is committed, and stays below 200 kB.
"""

import base64
import io
import json
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
FIGURES = {
    "corner.png": ("3_posteriors_and_mystery", "plot_corner(run, star"),
    "one-to-one.png": ("3_posteriors_and_mystery", "plot_one_to_one(run)"),
}
MOST = 200_000


def figure_of(notebook: str, code: str) -> bytes:
    """First figure of the cell with that code."""
    cells = json.loads((HERE.parent / f"notebooks/{notebook}.ipynb").read_text("utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code" and code in "".join(cell["source"]):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode("".join(output["data"]["image/png"]))
    raise LookupError(f"{notebook} has no figure of {code}")


def main() -> None:
    for name, (notebook, code) in FIGURES.items():
        image = Image.open(io.BytesIO(figure_of(notebook, code))).convert("RGB")
        image.thumbnail((1100, 1100))
        small = io.BytesIO()
        image.quantize(255).save(small, "PNG", optimize=True)
        if len(small.getvalue()) > MOST:
            raise ValueError(f"{name} has {len(small.getvalue())} bytes, more than {MOST}")
        (HERE / "_static" / name).write_bytes(small.getvalue())


if __name__ == "__main__":
    main()
