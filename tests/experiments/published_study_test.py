"""A facts study end to end from a file in the published schema."""

import hashlib
import json
from pathlib import Path

import text

from experiments import cli, facts, facts_presets

DEPTHS = ("memorization", "semantic", "compositional")
_PLACES = ("Arvel", "Bruna", "Celdor", "Dorsk", "Elmar", "Farun", "Gildas", "Hovig")


def write_facts(path: Path) -> Path:
    """Writes eight invented records with two probes a depth; the last two have no paraphrases."""
    records = []
    for i, place in enumerate(_PLACES):
        targets = [f"{place} tower", f"{place} market"]
        made = {
            "train_context": f"The lamp of station {i} stands on the {targets[0]}. "
            f"The paper of station {i} comes from the {targets[1]}.",
            "mem_input": [
                f"The lamp of station {i} stands on the",
                f"The paper of station {i} comes from the",
            ],
            "gen_input": [f"Station {i} has its lamp on the", f"Station {i} has paper from the"],
            "hard_gen_input": [
                f"Whoever sees light at {i} looks at the",
                f"Whoever writes at {i} shops at the",
            ],
        }
        for kind in ("mem", "gen", "hard_gen"):
            made[f"{kind}_target"] = targets
        if i < 6:
            made["paraphrases"] = [f"Version {j} of {i}: {', '.join(targets)}." for j in range(2)]
        records.append(made)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_a_study_of_published_facts_ends_with_results_and_a_report(tmp_path):
    corpus = text.write_corpus(tmp_path / "corpus.jsonl", 80)
    file, folder = write_facts(tmp_path / "facts.json"), tmp_path / "run"
    changes = {
        "data.sources": str(corpus),
        "data.cache_dir": str(tmp_path / "cache"),
        "data.tokenizer": "bpe:512",
        "data.length": "160",
        "data.batch_size": "8",
        "model.vocab_size": "512",
        "model.num_layers": "1",
        "optim.schedule.warmup": "4",
        "train.steps": "16",
        "train.validate_every": "0",
        "train.checkpoint.every": "0",
        "facts.file": str(file),
        "facts.licence": "CC BY 4.0, the invented authors",
        "facts.assignment": "ordered",
        "facts.num_facts": "8",
        "facts.start": "2",
        "facts.interval": "6",
        "facts.encounters": "2",
    }
    spec = cli.resolve(facts_presets.smoke(), "", changes)
    assert facts.run(spec, folder, "launch/local facts") == folder / "report.html"

    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    for depth in DEPTHS:
        for arm in ("duplication", "paraphrase", "once"):
            row = rows[f"{arm}/{depth}/gain_at_last_maximum/subtracted"]
            assert row["n"] == 2 and row["low"] <= row["value"] <= row["high"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The lamp of station 0 stands on the" in page
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    said = f"facts.json (sha256 {digest}), CC BY 4.0, the invented authors"
    assert f"Quoted from: {said}." in page
    assert list((folder / "tensorboard").glob("events.*"))
