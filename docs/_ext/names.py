"""Names in docstrings become links where the reference has them, and stay code where not.

Docstrings write `` `infer_labels` `` for whatever is public; Sphinx would ask for the full path.
"""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx


def resolve(app: Sphinx, env, node, contnode):
    """Link to the one public object whose last name is meant; else plain code."""
    if node.get("refdomain") != "py":
        return None
    target = str(node.get("reftarget", ""))
    known = env.domaindata["py"]["objects"]
    last = target.rpartition(".")[2]
    tails = [target, last] if "." in target else [last]
    for tail in tails:
        here = [name for name in known if name == tail or name.endswith(f".{tail}")]
        here.sort(key=lambda name: (name.count("."), name))
        if here and (len(here) == 1 or here[0].count(".") < here[1].count(".")):
            entry = known[here[0]]
            link = app.builder.get_relative_uri(node["refdoc"], entry.docname)
            reference = nodes.reference("", "", internal=True, refuri=f"{link}#{entry.node_id}")
            reference += contnode.deepcopy()
            return reference
    return contnode


def plain_types(app: Sphinx, doctree: nodes.document) -> None:
    """Sizes in the types of attributes, as in (n_stars, n_labels), are words and no links."""
    for node in list(doctree.findall(pending_xref)):
        if node.get("reftype") == "class" and re.fullmatch(
            r"n_\w+|[a-z]|names|float\d*|int\d*|str|bool|tuple|list|dict|of|or", node["reftarget"]
        ):
            node.replace_self(node.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", plain_types)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
